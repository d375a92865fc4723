"""The layouts of datasets of tool calls that are no list of turns: xLAM's, Glaive's, and the Berkeley leaderboard's."""

import re
from collections.abc import Mapping
from typing import Any

from tuneline.stages.prepare.checks.problems import RowError
from tuneline.stages.prepare.formats.json_values import parse_calls, parse_json, to_call
from tuneline.stages.prepare.formats.reading import Reading, message
from tuneline.stages.prepare.rows import Chat

_SPEAKER = re.compile(r"(?:\A|\n)\s*(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE|FUNCTION CALL|A|B):\s*")
_ROLES = {"SYSTEM": "system", "USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_END = "<|endoftext|>"


def read_xlam(value: Mapping[str, Any], reading: Reading) -> Chat:
    """Return a question and the calls that answer it."""
    answers = parse_json(value["answers"], "answers", reading.notes)
    question = message("user", value["query"], "query")
    if answers in (None, [], {}):
        raise RowError("no_answer", "answers: neither a call nor a text")
    if isinstance(answers, str):
        return [question, message("assistant", answers, "answers")]
    return [question, {"role": "assistant", "tool_calls": parse_calls(answers, "answers")}]


def read_glaive(value: Mapping[str, Any], reading: Reading) -> Chat:
    """Return the turns of a chat that is one text; its calls are read where the tools are known."""
    text = value["chat"]
    if not isinstance(text, str):
        return reading.turns(text, "chat")
    pieces = _SPEAKER.split(text)
    if pieces[0].strip() or len(pieces) < 3:
        raise RowError("not_a_row", f"chat: begins with USER: or ASSISTANT:, this is {text.strip()[:40]!r}")
    turns: Chat = []
    for speaker, content in zip(pieces[1::2], pieces[2::2], strict=True):
        if speaker not in _ROLES:
            raise RowError("wrong_role", f"chat: {speaker!r}")
        content = content.replace(_END, "").strip()
        if content or speaker != "ASSISTANT":
            turns.append({"role": _ROLES[speaker], "content": content})
    return turns


def read_bfcl(value: Mapping[str, Any], reading: Reading) -> Chat:
    """Return a question of the leaderboard and the first of the calls that it accepts."""
    question = parse_json(value["question"], "question", reading.notes)
    if isinstance(question, str):
        question = [{"role": "user", "content": question}]
    if question and isinstance(question[0], list):
        if len(question) > 1:
            raise RowError("not_a_row", "question: several turns, but the row does not list the calls of each")
        question = question[0]
    truth = parse_json(value.get("ground_truth") or value.get("answer"), "ground_truth", reading.notes)
    if not truth:
        raise RowError("no_answer", "ground_truth: missing; the leaderboard keeps it in the file of possible answers")
    chat = reading.turns(question, "question")
    answers = truth if isinstance(truth, list) else [truth]
    if all(isinstance(call, str) for call in answers):
        return [*chat, {"role": "assistant", "content": f"[{', '.join(answers)}]"}]
    return [*chat, {"role": "assistant", "tool_calls": [_accepted_call(call) for call in answers]}]


def _accepted_call(call: Any) -> dict[str, Any]:
    """Return a call with the first value that is accepted for each argument; empty text is one that may be left out."""
    if isinstance(call, dict) and len(call) == 1 and isinstance(values := next(iter(call.values())), dict):
        arguments = {name: _first(accepted) for name, accepted in values.items()}
        arguments = {name: argument for name, argument in arguments.items() if argument != ""}
        return to_call({"name": next(iter(call)), "arguments": arguments})
    return to_call(call)


def _first(accepted: Any) -> Any:
    value = accepted[0] if isinstance(accepted, list) and accepted else accepted
    if isinstance(value, dict):
        return {key: _first(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_first(item) if isinstance(item, dict) else item for item in value]
    return value
