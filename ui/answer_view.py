"""An answer on the page: its calls folded, its Markdown, and what went wrong."""

from collections.abc import Callable
from typing import Any

from nicegui import ui

from tuneline.ui.conversation import ToolCall, Turn
from tuneline.ui.elements import alert, fold, markdown, plain
from tuneline.ui.safe_markdown import render_markdown

NOT_RUN = "not run: this model is asked without handlers"


class Shown:
    """What is on the page by part, so that only what changed is sent to the browser."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def if_changed(self, part: str, value: Any, show: Callable[[], Any]) -> None:
        """Call `show` if `value` is not what it was at the last call for this part."""
        text = repr(value)
        if self._values.get(part) != text:
            self._values[part] = text
            show()


class AnswerView:
    """Elements of one turn's answer; `update` brings them up to date."""

    def __init__(self, turn: Turn) -> None:
        self._turn, self._shown = turn, Shown()
        self._calls = ui.element("div").classes("calls")
        self._answer = markdown("").classes("answer")
        self._problem = alert("")

    def update(self) -> None:
        """Show what the answer has come to."""
        turn = self._turn
        self._shown.if_changed("calls", turn.calls, lambda: self._show_calls(turn.calls))
        self._shown.if_changed("answer", turn.answer, lambda: self._answer.set_content(render_markdown(turn.answer)))
        self._shown.if_changed("problem", turn.problem, self._show_problem)

    def _show_calls(self, calls: list[ToolCall]) -> None:
        self._calls.clear()
        with self._calls:
            for call in calls:
                _show_call(call)

    def _show_problem(self) -> None:
        self._problem.set_text(self._turn.problem)
        self._problem.set_visibility(bool(self._turn.problem))


def _show_call(call: ToolCall) -> None:
    state = "" if call.ok else " failed"
    with fold(f"{call.name or 'a tool'}{state}").classes("" if call.ok else "failed"):
        ui.label("Arguments").classes("figures")
        plain(call.arguments or "none", "mono")
        ui.label("Result").classes("figures")
        plain(NOT_RUN if call.result is None else call.result, "mono")


def describe_figures(turn: Turn, *, is_blind: bool = False) -> str:
    """Return model, tokens and seconds in a line; of a blind answer only whether it is still arriving."""
    if turn.state == "running":
        seconds = f"{turn.seconds:.0f} s …" if turn.seconds else "starting …"
        return "answering …" if is_blind else f"{turn.model} · {seconds}"
    parts = [] if is_blind else [turn.model, turn.style, *_list_figures(turn)]
    return " · ".join(part for part in (*parts, "stopped" if turn.state == "stopped" else "") if part)


def _list_figures(turn: Turn) -> list[str]:
    figures = [f"{turn.tokens:,} tokens"] if turn.tokens else []
    figures += [f"{turn.seconds:.1f} s"] if turn.seconds else []
    return figures + ([f"first token after {turn.first_token_s:.2f} s"] if turn.first_token_s is not None else [])
