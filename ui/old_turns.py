"""Earlier turns of a conversation as one piece of HTML: a thousand of them are not a thousand elements to track.

All texts are escaped, or go through `render_markdown`; the browser sanitises the whole once more.
"""

from collections.abc import Sequence
from html import escape

from tuneline.ui.answer_view import NOT_RUN, describe_figures
from tuneline.ui.conversation import ToolCall, Turn
from tuneline.ui.safe_markdown import render_markdown


def render_turns(turns: Sequence[Turn], first: int) -> str:
    """Return turns as HTML, without buttons; `first` is the number of the first one, from 0."""
    return "".join(_render(turn, first + number + 1) for number, turn in enumerate(turns))


def _render(turn: Turn, number: int) -> str:
    problem = f'<div class="alert plain">{escape(turn.problem)}</div>' if turn.problem else ""
    return (
        f'<section class="turn" aria-label="Question {number}">'
        f'<div class="question plain">{escape(turn.question)}</div>'
        f"{''.join(map(_render_call, turn.calls))}"
        f'<div class="markdown answer">{render_markdown(turn.answer)}</div>{problem}'
        f'<div class="figures">{escape(describe_figures(turn))}</div></section>'
    )


def _render_call(call: ToolCall) -> str:
    result = NOT_RUN if call.result is None else call.result
    parts = "".join(f'<div class="plain mono">{escape(text)}</div>' for text in (call.arguments, result))
    return f'<details class="fold"><summary>{escape(call.name)}</summary>{parts}</details>'
