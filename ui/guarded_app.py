"""NiceGUI's app behind `Access`: what the local page and the deployed one share."""

from collections.abc import Callable

from fastapi import FastAPI
from starlette.types import ASGIApp

from tuneline.ui.access import Access
from tuneline.ui.page import Pages, declare_page

RECONNECT_S = 30.0
"""How long a page that lost its connection keeps its state here."""


def build_guarded_app(pages: Pages, guard: Callable[[ASGIApp], Access], app: FastAPI) -> ASGIApp:
    """Return `app` with the page, behind what `guard` makes of it. A process has one page."""
    from nicegui import ui

    declare_page(pages, lambda: access)
    ui.run_with(
        app, dark=None, tailwind=False, reconnect_timeout=RECONNECT_S, show_welcome_message=False, language="en-US"
    )
    access = guard(app)
    return access
