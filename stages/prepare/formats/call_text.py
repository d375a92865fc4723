"""Reads tool calls that an answer has as text, where the row has the tools that are called.

    <tool_call>{"name": …, "arguments": {…}}</tool_call>     Hermes, ChatML
    <functioncall> {"name": …, "arguments": '{…}'}           Glaive
    <function=name>{…}</function>                            Llama 3.1
    [name(a=1), other(b="x")]                                ToolACE, BFCL, Llama 4
    {"name": …, "parameters": {…}}; {…}                      Llama 3, after <|python_tag|>; xLAM, in a list

What is said around tagged calls stays beside them.
"""

import ast
import json
import re
from collections.abc import Collection
from typing import Any

from tuneline.core.python_literals import parse_python
from tuneline.stages.prepare.rows import Chat

MARKS = ("<tool_call>", "<functioncall>", "<function=", "<|python_tag|>", "[TOOL_CALLS]", "<|tool_call|>")
"""What begins a call in some model's text."""
_TAGGED = re.compile(
    r"<tool_call>\s*(?P<hermes>.*?)\s*(?:</tool_call>|\Z)"
    r"|<functioncall>\s*(?P<glaive>\{.*?\})\s*(?:</functioncall>|<\|endoftext\|>|(?=<functioncall>)|\Z)"
    r"|<function=(?P<name>[^>\s]+)>\s*(?P<arguments>\{.*?\}|)\s*(?:</function>|\Z)",
    re.S,
)
_PREFIX = re.compile(r"\s*(?:<\|python_tag\|>|\[TOOL_CALLS\]|<\|tool_call\|>|<\|python_start\|>)\s*")
_RESULT = re.compile(r"<tool_response>\s*(.*?)\s*(?:</tool_response>|\Z)", re.S)
_QUOTED_ARGUMENTS = re.compile(r"""(["']arguments["']\s*:\s*)'(.*)'\s*\}\s*\Z""", re.S)
_CALL_LIST = re.compile(r"\[\s*[^()\[\]{},=\n]{1,128}\(\s*(?:\w+\s*=|\)\s*[,\]])")

Call = tuple[str, Any]
"""The name of a tool, and the arguments, an object or the JSON text of one."""


def read_calls(chat: Chat, names: Collection[str]) -> Chat:
    """Return the chat with calls in place of answers that have them as text, and results without their tags.

    `names` are those that the row's tools have in its own text. A text that is no call of these stays as it is.
    """
    if not names:
        return chat
    turns: Chat = []
    for turn in chat:
        content = turn.get("content")
        if not content or turn.get("tool_calls"):
            turns.append(turn)
        elif turn["role"] == "assistant":
            said, calls = parse_text_calls(content, names)
            if calls:
                turn = {key: value for key, value in turn.items() if key != "content"}
                turn |= {"content": said} if said else {}
                turn["tool_calls"] = [{"function": {"name": name, "arguments": args}} for name, args in calls]
            turns.append(turn)
        elif turn["role"] == "tool" or (turn["role"] == "user" and content.lstrip().startswith("<tool_response>")):
            turns += _read_results(turn, len(turns[-1].get("tool_calls") or ()) if turns else 0)
        else:
            turns.append(turn)
    return turns


def uses_tools(chat: Chat) -> bool:
    """Return whether a chat has calls or results, or text that looks like them."""
    for turn in chat:
        if turn["role"] == "tool" or "tool_calls" in turn:
            return True
        content = turn.get("content")
        if content and (may_hold_calls(content) or "<tool_response>" in content):
            return True
    return False


def may_hold_calls(text: str) -> bool:
    """Return whether an answer looks as if it called tools; whether it does depends on the row's tools."""
    if "<" not in text and "[" not in text and "{" not in text:
        return False
    if any(mark in text for mark in MARKS):
        return True
    start = text.lstrip()
    if start.startswith(("[", "{")) and '"name"' in text and ('"arguments"' in text or '"parameters"' in text):
        return True
    return start.startswith("[") and _CALL_LIST.match(start) is not None


def parse_text_calls(text: str, names: Collection[str]) -> tuple[str, list[Call]]:
    """Return (what is said beside the calls, the calls) of an answer; (the text, []) if it calls no such tool."""
    if "<tool_call>" in text or "<functioncall>" in text or "<function=" in text:
        matches = list(_TAGGED.finditer(text))
        calls = [call for match in matches for call in _tagged_calls(match) or [("", None)]]
        if calls and all(name in names for name, _ in calls):
            said = _TAGGED.sub("", text).replace("<|endoftext|>", "").strip()
            return said, calls
        return text, []
    body = _PREFIX.sub("", text, count=1).strip().removesuffix("<|endoftext|>").strip()
    calls = (_json_calls(body) or []) if body[:1] in ("{", "[") else []
    if not calls and body.startswith("[") and body.endswith("]"):
        calls = _parse_call_list(body[1:-1], names) or []
    return ("", calls) if calls and all(name in names for name, _ in calls) else (text, [])


def _tagged_calls(match: re.Match[str]) -> list[Call]:
    if match["name"]:
        return [(match["name"], match["arguments"] or "{}")]
    text = match["hermes"] if match["hermes"] is not None else match["glaive"]
    return _json_calls(text) or []


def _json_calls(text: str) -> list[Call] | None:
    """Return the calls that are JSON objects, one after the other or in a list; None if anything else is there."""
    calls: list[Call] = []
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
            rest = rest[end:].lstrip("; \t\r\n")
        except (ValueError, RecursionError):
            value, rest = _parse_loosely(rest), ""
        for call in value if isinstance(value, list) else [value]:
            function = call.get("function", call) if isinstance(call, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                return None
            arguments: Any = next((function[key] for key in ("arguments", "parameters") if key in function), {})
            if not isinstance(arguments, dict | str | None):
                return None
            calls.append((function["name"], arguments))
    return calls or None


def _parse_loosely(text: str) -> Any:
    """Return the value of a call as Python writes it, or as Glaive does, with its arguments in single quotes."""
    if match := _QUOTED_ARGUMENTS.search(text):
        text_of_arguments = match[2].replace("\\'", "'")
        try:
            return json.loads(f"{text[: match.start()]}{match[1]}{json.dumps(text_of_arguments)}}}")
        except ValueError:
            pass
    return parse_python(text)


def _parse_call_list(text: str, names: Collection[str]) -> list[Call] | None:
    """Return the calls of `name(a=1), other(b="x")`, or None if the text is anything else."""
    calls: list[Call] = []
    rest = text.strip()
    while rest:
        name = next((name for name in sorted(names, key=len, reverse=True) if _begins_with_call(rest, name)), None)
        if name is None:
            return None
        end = _closing_bracket(rest, rest.index("(", len(name)))
        arguments = parse_keywords(rest[rest.index("(", len(name)) + 1 : end]) if end else None
        if arguments is None:
            return None
        calls.append((name, arguments))
        rest = rest[end + 1 :].lstrip(" ,;\n")
    return calls


def _begins_with_call(text: str, name: str) -> bool:
    return text.startswith(name) and text[len(name) :].lstrip().startswith("(")


def _closing_bracket(text: str, start: int) -> int:
    """Return where the bracket that opens at `start` is closed, outside of quotes; 0 if it is not."""
    depth, quote, escaped = 0, "", False
    for position in range(start, len(text)):
        character = text[position]
        if quote:
            quote = "" if character == quote and not escaped else quote
            escaped = character == "\\" and not escaped
        elif character in "\"'":
            quote, escaped = character, False
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if not depth:
                return position
    return 0


_LITERALS = {"true": "True", "false": "False", "null": "None"}
_WORDS = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\b(?:true|false|null)\b", re.S)


def parse_keywords(text: str) -> dict[str, Any] | None:
    """Return the arguments of `a=1, b="x"`, with values of Python or JSON, or of one object; None of anything else."""
    try:
        if text.strip().startswith("{"):
            value = json.loads(text)
            return value if isinstance(value, dict) else None
        source = _WORDS.sub(lambda match: _LITERALS.get(match[0], match[0]), text)
        call = ast.parse(f"f({source})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
            return None
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _read_results(turn: dict[str, Any], calls: int) -> Chat:
    """Return a result without its tags; several in one turn, or a list with one for each call, are several results."""
    content = turn["content"]
    others = {key: value for key, value in turn.items() if key != "content"} | {"role": "tool"}
    tagged = _RESULT.findall(content)
    if tagged and not _RESULT.sub("", content).strip():
        return [{**others, "content": text} for text in tagged]
    if calls > 1 and content.lstrip().startswith("["):
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):
            values = []
        if isinstance(values, list) and len(values) == calls:
            return [{**others, "content": _text_of(value)} for value in values]
    return [turn]


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
