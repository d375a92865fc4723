"""A question with its answer on the page, which follows the turn while it grows."""

from typing import Protocol

from nicegui import ui

from tuneline.core.errors import TunelineError
from tuneline.ui.answer_view import AnswerView, Shown, describe_figures
from tuneline.ui.conversation import Turn, WaitingCall
from tuneline.ui.elements import icon_button, plain, text_button

SENT = "Thank you: written to the request log"


class TurnActions(Protocol):
    """What a turn's buttons do."""

    def retry(self) -> None: ...
    def edit(self) -> None: ...
    def decide(self, call: str, confirm: bool) -> None: ...
    async def give_feedback(self, turn: Turn, rating: str | None, correction: str | None) -> None: ...


class TurnView:
    """Elements of one turn; `update` brings them up to date."""

    def __init__(self, turn: Turn, actions: TurnActions, number: int) -> None:
        self._turn, self._actions = turn, actions
        self._shown = Shown()
        with ui.element("section").classes("turn").props(f'aria-label="Question {number}"'):
            plain(turn.question, "question")
            self._answer = AnswerView(turn)
            self._waiting = ui.element("div").classes("waiting")
            with ui.element("div").classes("bar"):
                self._figures = ui.label().classes("figures")
                self._buttons = ui.element("div").classes("buttons")
            self._correction = ui.element("div").classes("correction")

    def update(self, is_last: bool) -> None:
        """Show what the turn has come to."""
        turn = self._turn
        self._answer.update()
        self._shown.if_changed("waiting", (turn.waiting, is_last), lambda: self._show_waiting(is_last))
        self._shown.if_changed(
            "figures", describe_figures(turn), lambda: self._figures.set_text(describe_figures(turn))
        )
        self._shown.if_changed("buttons", (turn.state, turn.rating, is_last), lambda: self._show_buttons(is_last))

    def _show_waiting(self, is_last: bool) -> None:
        self._waiting.clear()
        with self._waiting:
            for call in self._turn.waiting if is_last else ():
                self._show_decision(call)

    def _show_decision(self, call: WaitingCall) -> None:
        with ui.element("div").classes("decision").props('role=group aria-label="Confirm a call"'):
            ui.label(f"{call.name} runs only if you say so").classes("strong")
            if call.reason:
                plain(call.reason)
            plain(call.arguments, "mono")
            with ui.element("div").classes("buttons"):
                text_button("Run it", lambda: self._actions.decide(call.id, True), primary=True)
                text_button("Do not run it", lambda: self._actions.decide(call.id, False))

    def _show_buttons(self, is_last: bool) -> None:
        self._buttons.clear()
        turn = self._turn
        if turn.state == "running":
            return
        with self._buttons:
            if turn.answer:
                icon_button("content_copy", "Copy the answer", lambda: ui.clipboard.write(turn.answer))
            if is_last:
                icon_button("refresh", "Answer again", self._actions.retry)
                icon_button("edit", "Edit the question", self._actions.edit)
            if turn.request:
                self._show_rating("good", "thumb_up", "Good answer")
                self._show_rating("bad", "thumb_down", "Bad answer")
                icon_button("rate_review", "What it should have said", self._open_correction)

    def _show_rating(self, rating: str, icon: str, label: str) -> None:
        button = icon_button(icon, label, lambda: self._rate(rating))
        is_given = self._turn.rating == rating
        button.props(f"aria-pressed={str(is_given).lower()}")

    async def _rate(self, rating: str) -> None:
        await self._send(rating, None)
        if rating == "bad" and not self._turn.correction:
            self._open_correction()

    def _open_correction(self) -> None:
        self._correction.clear()
        with self._correction:
            text = ui.textarea("What it should have said", value=self._turn.correction or self._turn.answer)
            text.props("outlined autogrow autofocus").classes("wide")
            with ui.element("div").classes("buttons"):
                text_button("Send", lambda: self._correct(text.value or ""), primary=True)
                text_button("Cancel", self._correction.clear)

    async def _correct(self, correction: str) -> None:
        if correction.strip():
            await self._send(None, correction)
            self._correction.clear()

    async def _send(self, rating: str | None, correction: str | None) -> None:
        try:
            await self._actions.give_feedback(self._turn, rating, correction)
        except TunelineError as error:
            ui.notify(str(error), type="negative")
        else:
            ui.notify(SENT, type="positive")
