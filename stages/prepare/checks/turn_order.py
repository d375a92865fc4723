"""The order of turns: what is usual is kept, what is odd is put in order or kept, and each change is reported."""

from collections.abc import Iterator
from typing import Any

from tuneline.stages.prepare.checks.problems import RowError
from tuneline.stages.prepare.rows import Chat


def arrange_turns(chat: Chat) -> tuple[Chat, list[RowError]]:
    """Return (the chat with its turns in order, what was done to it).

    Calls that follow each other are calls of one turn; consecutive turns of one speaker are joined; an answer that
    nothing asks for is not in the loss; what comes after the last answer is left out.
    """
    if _is_usual(chat):
        return chat, []
    changes: list[RowError] = []
    turns: Chat = []
    for number, turn in enumerate(chat):
        if turn["role"] == "system" and not turn.get("content"):
            continue
        if turns and _may_join(turns[-1], turn):
            if not turn.get("tool_calls") or turns[-1].get("content") or turn.get("content"):
                text = f"messages.{number}: {turn['role']} after {turn['role']}; the two turns are joined"
                changes.append(RowError("wrong_order", text))
            turns[-1] = _joined(turns[-1], turn)
        else:
            turns.append(turn)
    return _without_tail(turns, changes), [*changes, *_mark_odd(turns)]


def _is_usual(chat: Chat) -> bool:
    """Return whether user and assistant take turns, after a system message if there is one."""
    start = 1 if chat and chat[0]["role"] == "system" and chat[0].get("content") else 0
    expected = "user"
    for turn in chat[start:]:
        if turn["role"] != expected or turn.get("tool_calls"):
            return False
        expected = "assistant" if expected == "user" else "user"
    return expected == "user" and len(chat) > start


def _may_join(previous: dict[str, Any], turn: dict[str, Any]) -> bool:
    """Return whether two turns are one: of one speaker, and not text after calls, whose results are missing."""
    if previous["role"] != turn["role"] or turn["role"] == "tool":
        return False
    if previous.get("tool_calls") and not turn.get("tool_calls"):
        return False
    return bool(previous.get("weight", 1) == turn.get("weight", 1))


def _joined(previous: dict[str, Any], turn: dict[str, Any]) -> dict[str, Any]:
    texts = [text for text in (previous.get("content"), turn.get("content")) if text]
    calls = [*previous.get("tool_calls", ()), *turn.get("tool_calls", ())]
    joined = previous | ({"content": "\n\n".join(texts)} if texts else {})
    return joined | ({"tool_calls": calls} if calls else {})


def _without_tail(turns: Chat, changes: list[RowError]) -> Chat:
    """Return the turns up to the last answer, if there is one."""
    last = max((number for number, turn in enumerate(turns) if turn["role"] == "assistant"), default=-1)
    if 0 <= last < len(turns) - 1:
        tail = turns[last + 1 :]
        text = f"messages.{last + 1}: the row ends with {tail[-1]['role']}, which has no answer: "
        changes.append(
            RowError("tail_left_out", f"{text}{len(tail)} {'turn is' if len(tail) == 1 else 'turns are'} left out")
        )
        return turns[: last + 1]
    return turns


def _mark_odd(turns: Chat) -> Iterator[RowError]:
    """Yield what is odd and kept: a first answer, which gets the weight 0, and a late system message."""
    first = next((number for number, turn in enumerate(turns) if turn["role"] != "system"), None)
    if first is not None and turns[first]["role"] == "assistant":
        others = any(turn["role"] == "assistant" for turn in turns[first + 1 :])
        if others:
            turns[first]["weight"] = 0
        what = "kept as context, not trained on" if others else "trained on as it is"
        yield RowError("wrong_order", f"messages.{first}: an answer without a question; {what}")
    for number, turn in enumerate(turns):
        if turn["role"] == "system" and number and turns[number - 1]["role"] != "system":
            yield RowError(
                "wrong_order", f"messages.{number}: a system message after {turns[number - 1]['role']}; kept there"
            )
