"""The tab Talk."""

from typing import Any

from nicegui import ui

from tuneline.endpoints.prompts import list_styles
from tuneline.ui.conversation import Conversation, Turn
from tuneline.ui.elements import alert, icon_button, select, text_button
from tuneline.ui.models import ASSISTANT, Model
from tuneline.ui.old_turns import render_turns
from tuneline.ui.page_context import PageContext
from tuneline.ui.turn_view import TurnView

REFRESH_S = 0.12
LIVE, BATCH = 20, 100
"""Turns that are shown at first, with their buttons; and those that scrolling up adds, without."""
RECENT = 30
NEAR_TOP = (
    "(event) => { const box = event.target; if (box.clientHeight - box.scrollTop > box.scrollHeight - 300) emit() }"
)
"""The messages are laid out from the bottom, so that `scrollTop` is 0 there and falls on the way up."""


class TalkTab:
    """One conversation at a time."""

    def __init__(self, page: PageContext, conversation: Conversation) -> None:
        self._page, self._conversation = page, conversation
        self._views: dict[int, TurnView] = {}
        self._first = 0
        self._editing = False
        self._build()
        self._show_conversation()
        page.on_models.append(self._show_models)
        self._show_models()
        ui.timer(REFRESH_S, self._refresh)

    def _build(self) -> None:
        with ui.element("div").classes("talk"):
            with ui.element("div").classes("toolbar"):
                self._model = select("Model", {})
                styles = {"": "no style"} | {name: name for name in list_styles()}
                self._style = select("Style", styles, "")
                with ui.element("div").classes("buttons"):
                    icon_button("add_comment", "New conversation", self._start_new)
                    with icon_button("history", "Earlier conversations"):
                        self._history = ui.menu().on("show", self._show_history)
            self._problem = alert("")
            box = ui.element("div").classes("messages").props('role=log aria-label="Conversation" tabindex=0')
            self._box = box
            box.on("scroll", self._show_earlier, js_handler=NEAR_TOP, throttle=0.2)
            with box, ui.element("div").classes("stack"):
                self._earlier = text_button("Show earlier messages", self._show_earlier).classes("earlier")
                self._old = ui.element("div").classes("stack")
                self._turns = ui.element("div").classes("stack")
                self._empty = ui.label("Ask something. Enter sends, Shift+Enter begins a new line.").classes("empty")
            self._build_question()

    def _build_question(self) -> None:
        with ui.element("div").classes("ask"):
            self._note = ui.element("div").classes("note")
            with self._note:
                ui.label("This replaces the last question and its answer.")
                text_button("Keep it", self._end_edit)
            self._note.set_visibility(False)
            with ui.element("div").classes("askline"):
                self._question = ui.textarea("Question").props("outlined autogrow dense autofocus").classes("wide")
                self._question.on("keydown.enter.exact.prevent", self._send)
                self._question.on("keydown.esc", self._stop)
                self._send_button = icon_button("send", "Send", self._send)
                self._stop_button = icon_button("stop_circle", "Stop the answer", self._stop)

    def retry(self) -> None:
        """Answer the last question again, with the model and style that are chosen now."""
        if self._running or not self._conversation.turns:
            return
        self._ask_instead(self._conversation.turns[-1].question)

    def edit(self) -> None:
        """Put the last question into the field; sending it replaces the turn."""
        self._editing = True
        self._note.set_visibility(True)
        self._question.set_value(self._conversation.turns[-1].question)
        self._question.run_method("focus")

    def decide(self, call: str, confirm: bool) -> None:
        """Run a call that waits, or decline it."""
        turn = self._conversation.turns[-1]
        model = next((m for m in self._page.offered if m.label == turn.model), None)
        if model and not self._running:
            self._page.answering.decide(self._conversation, model, call, confirm, self._page.store.save)

    async def give_feedback(self, turn: Turn, rating: str | None, correction: str | None) -> None:
        """Send feedback on a turn to the gateway that answered it. Raises TunelineError."""
        model = self._page.find_model(turn.model)
        if model is None:
            ui.notify(f"{turn.model} is not served any more", type="negative")
            return
        await model.client.send_feedback(turn.request, rating, correction)
        turn.rating, turn.correction = rating or turn.rating, correction or turn.correction
        self._page.store.save(self._conversation)

    @property
    def _running(self) -> bool:
        turns = self._conversation.turns
        return bool(turns) and turns[-1].state == "running"

    def _send(self) -> None:
        question = (self._question.value or "").strip()
        if not question or self._running:
            return
        self._question.set_value("")
        if self._editing:
            self._end_edit()
            self._ask_instead(question)
        else:
            self._ask(question)

    def _ask_instead(self, question: str) -> None:
        self._conversation.turns.pop()
        self._conversation.assistant = ""  # what it keeps has the turn that was replaced
        self._ask(question)
        self._show_conversation()

    def _ask(self, question: str) -> None:
        model = self._page.find_model(self._model.value or "")
        if model is None:
            ui.notify("choose a model first", type="warning")
            self._question.set_value(question)
            return
        turns = self._conversation.turns
        if turns and turns[-1].model != ASSISTANT:
            self._conversation.assistant = ""  # it has not heard those turns
        turns.append(Turn(question=question, model=model.label, style=self._style.value or ""))
        self._page.answering.ask(self._conversation, model, self._page.store.save)
        ui.navigate.history.replace(f"/?c={self._conversation.id}")
        self._refresh()
        ui.run_javascript(f"getHtmlElement({self._box.id}).scrollTop = 0")  # down to the new question

    def _stop(self) -> None:
        self._page.answering.stop(self._conversation)

    def _end_edit(self) -> None:
        self._editing = False
        self._note.set_visibility(False)
        self._question.set_value("")

    def _start_new(self) -> None:
        self._open(self._page.store.new())

    def _open(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._end_edit()
        ui.navigate.history.replace(f"/?c={conversation.id}")
        self._show_conversation()
        self._question.run_method("focus")

    def _show_history(self) -> None:
        self._history.clear()
        with self._history:
            conversations = self._page.store.list_recent(RECENT)
            for conversation in conversations:
                ui.menu_item(conversation.title, lambda c=conversation: self._open(c)).props("role=menuitem")
            if not conversations:
                ui.menu_item("none yet")

    def _show_conversation(self) -> None:
        """Show the conversation's last turns."""
        self._views.clear()
        self._old.clear()
        self._turns.clear()
        self._first = max(0, len(self._conversation.turns) - LIVE)
        self._refresh(everything=True)

    def _show_earlier(self) -> None:
        """Show a batch of turns above those that are there."""
        last, self._first = self._first, max(0, self._first - BATCH)
        if self._first == last:
            return
        with self._old:
            html = render_turns(self._conversation.turns[self._first : last], self._first)
            ui.html(html, sanitize=True).classes("stack").move(target_index=0)
        self._earlier.set_visibility(self._first > 0)

    def _refresh(self, *, everything: bool = False) -> None:
        """Bring the shown turns up to date: the last one grows, the one before it loses buttons."""
        turns = self._conversation.turns
        self._send_button.set_visibility(not self._running)
        self._stop_button.set_visibility(self._running)
        self._empty.set_visibility(not turns)
        self._earlier.set_visibility(self._first > 0)
        first = self._first if everything else max(self._first, len(turns) - 2)
        for number in range(first, len(turns)):
            view = self._views.get(number)
            if view is None:
                with self._turns:
                    view = self._add_view(number)
            view.update(number == len(turns) - 1)

    def _add_view(self, number: int) -> TurnView:
        view = self._views[number] = TurnView(self._conversation.turns[number], self, number + 1)
        return view

    def _show_models(self) -> None:
        labels = {model.label: model.label for model in self._page.offered}
        chosen: Any = self._model.value if self._model.value in labels else self._default(self._page.offered)
        self._model.set_options(labels, value=chosen)
        problem = self._page.gateway_problem
        if not labels and not problem:
            problem = "no models yet: promote a run, or make one with `tuneline demo`"
        self._problem.set_text(problem)
        self._problem.set_visibility(bool(problem))

    def _default(self, offered: list[Model]) -> str | None:
        """Return the label of the model that the conversation used last, else the first one."""
        labels = [model.label for model in offered]
        used = [turn.model for turn in self._conversation.turns[-1:]]
        return next((label for label in [*used, *labels] if label in labels), None)
