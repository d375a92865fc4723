"""Older transcripts, where tags stand for turns: `[THINK] … [CALL] name(args) [RESULT] … [RESPONSE] …`.

Arguments are written as Python writes them (`to="Anna", count=2`), as one JSON object, or not at all. The thinking is
dropped, or all of it kept as text in front of the answer that follows: calls have no text.
"""

import ast
import json
import re
from typing import Any

from tuneline.stages.prepare.checks.problems import Wrong

_TAG = re.compile(r"\[(THINK|CALL|RESULT|RESPONSE|USER)\]")
_ENDS = re.compile(r"\[/(?:THINK|CALL|RESULT|RESPONSE|USER)\]")
_CALL = re.compile(r"\s*([A-Za-z_][\w.\-]*)\s*\((.*)\)\s*;?\s*", re.S)


def is_transcript(text: str) -> bool:
    """Whether an answer starts with a tag of a transcript."""
    return text.lstrip().startswith(("[THINK]", "[CALL]", "[RESPONSE]"))


def turns_of(text: str, *, keep_thinking: bool) -> list[dict[str, Any]]:
    """The turns a transcript stands for; calls that follow each other directly are parallel.

    Raises:
        Wrong: a call that cannot be read, or text before the first tag.
    """
    pieces = _TAG.split(_ENDS.sub("", text))
    if pieces[0].strip():
        raise Wrong("broken_transcript", f"text before the first tag: {pieces[0].strip()[:40]!r}")
    turns: list[dict[str, Any]] = []
    thought = ""
    for tag, said in zip(pieces[1::2], pieces[2::2], strict=True):
        if tag == "THINK":
            thought = f"{thought}\n{said.strip()}".strip()
        elif tag == "CALL":
            if turns and turns[-1].get("tool_calls"):
                turns[-1]["tool_calls"].append(_call(said))
            else:
                turns.append({"role": "assistant", "tool_calls": [_call(said)]})
        elif tag == "RESPONSE":
            kept = f"<think>{thought}</think>\n" if keep_thinking and thought else ""
            turns.append({"role": "assistant", "content": kept + said.strip()})
        else:
            turns.append({"role": "tool" if tag == "RESULT" else "user", "content": said.strip()})
        thought = thought if tag in ("THINK", "CALL", "RESULT") else ""
    return turns


def _call(said: str) -> dict[str, Any]:
    read = _CALL.fullmatch(said)
    if read is None:
        raise Wrong("broken_transcript", f"[CALL] {said.strip()[:60]!r}: name(args)")
    name, inside = read[1], read[2].strip()
    return {"type": "function", "function": {"name": name, "arguments": _arguments(inside) if inside else {}}}


def _arguments(inside: str) -> dict[str, Any]:
    try:
        if inside.startswith("{"):
            value = json.loads(inside)
        else:
            call = ast.parse(f"f({_lowered(inside)})", mode="eval").body
            assert isinstance(call, ast.Call)
            if call.args or any(keyword.arg is None for keyword in call.keywords):
                raise ValueError
            value = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        if isinstance(value, dict):
            return value
    except (ValueError, SyntaxError, AssertionError, MemoryError, RecursionError):
        pass
    raise Wrong("broken_transcript", f"[CALL] arguments {inside[:60]!r}: name=value, … or one JSON object")


def _lowered(inside: str) -> str:
    """JSON's words for Python's, outside of quotes."""
    words = {"true": "True", "false": "False", "null": "None"}
    return re.sub(
        r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\b(?:true|false|null)\b", lambda m: words.get(m[0], m[0]), inside
    )
