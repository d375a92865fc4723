"""The page's smallest parts, each with what a keyboard and a screen reader need."""

from collections.abc import Callable
from typing import Any

from nicegui import ui

from tuneline.ui.safe_markdown import render_markdown


def icon_button(icon: str, label: str, on_click: Callable[..., Any] | None = None) -> ui.button:
    """Return a button with an icon, whose `label` is read out and shown on hover."""
    button = ui.button(icon=icon, on_click=on_click, color=None).props("flat round dense size=13px").classes("icon")
    button.props["aria-label"] = label
    with button:
        ui.tooltip(label)
    return button


def text_button(label: str, on_click: Callable[..., Any] | None = None, *, primary: bool = False) -> ui.button:
    """Return a button with a text."""
    if primary:
        return ui.button(label, on_click=on_click).props("unelevated no-caps no-wrap")
    return ui.button(label, on_click=on_click, color=None).props("outline no-caps no-wrap").classes("quiet")


def markdown(text: str) -> ui.html:
    """Return others' Markdown, sanitised here and in the browser."""
    return ui.html(render_markdown(text), sanitize=True).classes("markdown")


def plain(text: str, classes: str = "") -> ui.label:
    """Return others' text as it is, with its line breaks."""
    return ui.label(text).classes(f"plain {classes}")


def alert(text: str) -> ui.label:
    """Return what went wrong, which a screen reader reads out at once."""
    return ui.label(text).classes("alert plain").props("role=alert")


def fold(summary: str, *, is_open: bool = False) -> ui.element:
    """Return a part that opens and closes; use it in `with`."""
    details = ui.element("details").classes("fold")
    if is_open:
        details.props("open")
    with details, ui.element("summary"):
        ui.label(summary)
    return details


def select(
    label: str, options: dict[str, str], value: str | None = None, on_change: Callable[..., Any] | None = None
) -> ui.select:
    """Return a choice of one."""
    element = ui.select(options, value=value, label=label, on_change=on_change)
    return element.props("outlined dense options-dense").classes("select")
