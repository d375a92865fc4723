"""Parses transcripts, in which tags separate the turns: `[THINK] … [CALL] name(args) [RESULT] … [RESPONSE] …`.

Arguments are Python keyword arguments (`to="Anna", count=2`), one JSON object, or empty. The thinking is dropped, or
all of it is put in front of the answer that follows, since calls have no text.
"""

import ast
import json
import re
from typing import Any

from tuneline.stages.prepare.checks.problems import RowError

_TAG = re.compile(r"\[(THINK|CALL|RESULT|RESPONSE|USER)\]")
_ENDS = re.compile(r"\[/(?:THINK|CALL|RESULT|RESPONSE|USER)\]")
_CALL = re.compile(r"\s*([A-Za-z_][\w.\-]*)\s*\((.*)\)\s*;?\s*", re.S)


def is_transcript(text: str) -> bool:
    """Return whether an answer starts with a tag of a transcript."""
    return text.lstrip().startswith(("[THINK]", "[CALL]", "[RESPONSE]"))


def parse_transcript(text: str, *, keep_thinking: bool) -> list[dict[str, Any]]:
    """Return the turns of a transcript. Calls that follow each other directly are parallel calls of one turn.

    Raises:
        RowError: A call cannot be parsed, or there is text before the first tag.
    """
    pieces = _TAG.split(_ENDS.sub("", text))
    if pieces[0].strip():
        raise RowError("broken_transcript", f"text before the first tag: {pieces[0].strip()[:40]!r}")
    turns: list[dict[str, Any]] = []
    thinking = ""
    for tag, text in zip(pieces[1::2], pieces[2::2], strict=True):
        if tag == "THINK":
            thinking = f"{thinking}\n{text.strip()}".strip()
        elif tag == "CALL":
            if turns and turns[-1].get("tool_calls"):
                turns[-1]["tool_calls"].append(_parse_call(text))
            else:
                turns.append({"role": "assistant", "tool_calls": [_parse_call(text)]})
        elif tag == "RESPONSE":
            prefix = f"<think>{thinking}</think>\n" if keep_thinking and thinking else ""
            turns.append({"role": "assistant", "content": prefix + text.strip()})
        else:
            turns.append({"role": "tool" if tag == "RESULT" else "user", "content": text.strip()})
        thinking = thinking if tag in ("THINK", "CALL", "RESULT") else ""
    return turns


def _parse_call(text: str) -> dict[str, Any]:
    match = _CALL.fullmatch(text)
    if match is None:
        raise RowError("broken_transcript", f"[CALL] {text.strip()[:60]!r}: name(args)")
    name, arguments = match[1], match[2].strip()
    parsed = _parse_arguments(arguments) if arguments else {}
    return {"type": "function", "function": {"name": name, "arguments": parsed}}


def _parse_arguments(text: str) -> dict[str, Any]:
    try:
        if text.startswith("{"):
            value = json.loads(text)
        else:
            call = ast.parse(f"f({_to_python(text)})", mode="eval").body
            assert isinstance(call, ast.Call)
            if call.args or any(keyword.arg is None for keyword in call.keywords):
                raise ValueError
            value = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        if isinstance(value, dict):
            return value
    except (ValueError, SyntaxError, AssertionError, MemoryError, RecursionError):
        pass
    raise RowError("broken_transcript", f"[CALL] arguments {text[:60]!r}: name=value, … or one JSON object")


def _to_python(text: str) -> str:
    """Return the text with `true`, `false` and `null` outside of quotes replaced by Python's names."""
    names = {"true": "True", "false": "False", "null": "None"}
    return re.sub(
        r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\b(?:true|false|null)\b", lambda m: names.get(m[0], m[0]), text
    )
