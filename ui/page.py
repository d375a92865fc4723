"""The page: its head, its tabs, and what each opened page knows."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from nicegui import ui
from starlette.requests import Request

from tuneline.ui.access import LOCAL, LOGOUT, Access, Session
from tuneline.ui.answering import Answering
from tuneline.ui.compare_tab import CompareTab
from tuneline.ui.conversation import ConversationStore
from tuneline.ui.elements import icon_button
from tuneline.ui.models import Models
from tuneline.ui.page_context import PageContext
from tuneline.ui.report_pages import declare_reports
from tuneline.ui.run_sources import RunSources
from tuneline.ui.runs_tab import RunsTab
from tuneline.ui.talk_tab import TalkTab
from tuneline.ui.watch_feed import WatchFeed
from tuneline.ui.watch_tab import WatchTab

STYLE = Path(__file__).with_name("style.css")
MODELS_EVERY_S = 5.0
COLORS = {"primary": "#4f46e5", "positive": "#067647", "negative": "#b42318", "warning": "#b54708"}
OpenModels = Callable[[Session], Models]
OpenFeed = Callable[[Session, Models], WatchFeed]
FIRST_LOOK_S = 1.5
"""Longest wait for the names of models before the page is shown; a gateway that sleeps needs longer."""


class Pages:
    """All opened pages: those of one owner share conversations and the answers that arrive."""

    def __init__(
        self, open_models: OpenModels, open_feed: OpenFeed, runs: RunSources, describe_votes: Callable[[Path], str]
    ) -> None:
        """`open_models` returns what a session may ask; `open_feed` what it watches."""
        self._open_models, self._open_feed, self._runs = open_models, open_feed, runs
        self._describe_votes = describe_votes
        self._shared: dict[tuple[str, str], tuple[Models, Answering, ConversationStore, RunSources, WatchFeed]] = {}
        """By owner, and by key: of a key that was rotated the one before ends."""

    def open(self, session: Session) -> PageContext:
        """Return what a page of this session knows."""
        owner = session.visitor.owner
        if (owner, session.key) not in self._shared:
            models = self._open_models(session)
            store, feed = ConversationStore(owner), self._open_feed(session, models)
            self._shared[owner, session.key] = models, Answering(models), store, self._runs, feed
        return PageContext(session, *self._shared[owner, session.key], self._describe_votes)


def declare_page(pages: Pages, access: Callable[[], Access]) -> None:
    """Declare what NiceGUI answers at `/`."""

    declare_reports(access)

    @ui.page("/", title="Tuneline", favicon=FAVICON)
    async def show(request: Request, c: str = "", tab: str = "Talk") -> None:
        session = access().find(request)
        await _show_page(pages.open(session), c, tab)


FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="4" fill="#4f46e5"/>'
    '<path d="M3 11l3-4 3 2 4-5" fill="none" stroke="#fff" stroke-width="1.8" stroke-linecap="round"/></svg>'
)


async def _show_page(page: PageContext, conversation: str, tab: str) -> None:
    ui.add_css(STYLE)
    ui.add_head_html('<base target="_blank">')  # a link in an answer opens beside the conversation
    ui.colors(**COLORS)
    dark = ui.dark_mode(page.session.dark)
    await asyncio.wait([asyncio.ensure_future(page.refresh_models())], timeout=FIRST_LOOK_S)
    builders: dict[str, Callable[[], object]] = {
        "Talk": lambda: TalkTab(page, page.store.find(conversation) or page.store.latest()),
        "Compare": lambda: CompareTab(page),
    }
    if page.session.visitor.is_operator:
        builders["Watch"] = lambda: WatchTab(page.feed, lambda: shown.value == "Watch")
        builders["Runs"] = lambda: RunsTab(page.runs)
    with ui.element("header").classes("top"):
        ui.label("Tuneline").classes("name")
        with ui.tabs().props('no-caps dense align=left aria-label="Parts of the page"') as tabs:
            for name in builders:
                ui.tab(name)
        icon_button("contrast", "Light or dark", lambda: _toggle(page.session, dark))
        if page.session.visitor != LOCAL:
            icon_button("logout", "Log out", lambda: ui.navigate.to(LOGOUT))
    built: set[str] = set()
    panels = {}
    with ui.tab_panels(tabs, value=tab if tab in builders else "Talk", animated=False, keep_alive=True) as shown:
        for name in builders:
            with ui.tab_panel(name) as panels[name]:
                pass

    def build(name: str) -> None:
        if name not in built:
            built.add(name)
            with panels[name]:
                builders[name]()

    def open_tab(name: str) -> None:
        build(name)
        ui.navigate.history.replace("/" if name == "Talk" else f"/?tab={name}")

    build(str(shown.value))
    tabs.on_value_change(lambda event: open_tab(str(event.value)))
    ui.timer(MODELS_EVERY_S, page.refresh_models)


def _toggle(session: Session, dark: ui.dark_mode) -> None:
    """Go through: as the browser prefers, dark, light."""
    dark.value = {None: True, True: False, False: None}[dark.value]
    session.dark = dark.value
