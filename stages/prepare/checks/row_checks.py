"""What is checked in one row: the order of its turns, its tool calls against their schemas, and its text."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tuneline.configs.catalogue import Catalogue, Tool, dotted_name, wire_name
from tuneline.stages.prepare.checks import personal_data
from tuneline.stages.prepare.checks.problems import Wrong
from tuneline.stages.prepare.formats.conversations import Chat

CONTROL = re.compile(r"<\|[a-z0-9_]+\|>")
"""How Llama writes its control tokens, `<|eot_id|>` and others."""
BAD_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd\ufeff\ufdd0-\ufdef]")
"""Control characters, the mark of text that was lost in decoding, byte order marks, and what is no character."""
_MAYBE_MOJIBAKE = re.compile("[Â-ô][\x80-¿€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|√[^\\s\\d]|[├┬][^\\s─-╿]")
"""A lead and a continuation byte of UTF-8, read as Windows-1252, Mac Roman or an old DOS code page."""
_BAD_BYTES = bytes({*range(0x20), 0x7F, 0xEF} - {*b"\t\n\r"})
_MOJIBAKE_BYTES = b"\xc2\xc5\xc6\xcb\xe2"
"""Of these one is in the UTF-8 of whatever the pattern above finds."""
FOLLOWS = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant"),
}
"""Which role may follow; a `call` is an assistant's turn with tool calls."""


class Toolbox:
    """The tools rows may call: the catalogue's, and those that rows bring with their schemas."""

    def __init__(self, catalogue: Catalogue | None) -> None:
        self.tools: dict[str, Tool] = dict(catalogue.tools) if catalogue else {}
        self.brought: dict[str, Tool] = {}
        self._validators: dict[str, Any] = {}

    @property
    def catalogue(self) -> Catalogue | None:
        """All tools known by now."""
        return Catalogue(tools=self.tools) if self.tools else None

    def names_of(self, tools: Any) -> list[str]:
        """Dotted names of a row's `tools`: names, or OpenAI's schemas, which become known.

        Raises:
            Wrong: not a tool, an unknown name, or a schema unlike an earlier one.
        """
        if tools is None:
            return []
        if not isinstance(tools, list):
            raise Wrong("bad_tool", f"tools: a list, this is {type(tools).__name__}")
        return [self._name_of(tool) for tool in tools]

    def _name_of(self, entry: Any) -> str:
        if isinstance(entry, str):
            name = dotted_name(entry)
            if name not in self.tools:
                raise Wrong("unknown_tool", f"tool {name!r} is listed but not in the catalogue (data.tools)")
            return name
        function = entry.get("function", entry) if isinstance(entry, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Wrong("bad_tool", "tools: an entry is a name or {type: function, function: {name, parameters}}")
        name = dotted_name(function["name"])
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        known = self.tools.get(name)
        if known is None:
            self._learn(name, Tool(description=str(function.get("description") or ""), parameters=parameters))
        elif known.parameters != parameters and name in self.brought:
            raise Wrong("bad_tool", f"tool {name!r}: its parameters differ from those of an earlier row")
        return name

    def _learn(self, name: str, tool: Tool) -> None:
        try:
            Catalogue(tools={name: tool})
            self._validator(name, tool)
        except ValueError as error:
            reason = str(error).split("Value error, ")[-1].split(" [type=")[0]
            raise Wrong("bad_tool", f"tool {name!r}: {reason}") from None
        self.tools[name] = self.brought[name] = tool

    def faults_of(self, name: str, arguments: Mapping[str, Any]) -> str | None:
        """What in the arguments does not fit the tool's schema; None if they do."""
        error = next(self._validator(name, self.tools[name]).iter_errors(arguments), None)
        if error is None:
            return None
        where = ".".join(["arguments", *map(str, error.instance_path)])
        return f"{where}: {error.message}"

    def _validator(self, name: str, tool: Tool) -> Any:
        if name not in self._validators:
            import jsonschema_rs

            schema = {"additionalProperties": False, **tool.parameters} if tool.parameters.get("properties") else {}
            self._validators[name] = jsonschema_rs.validator_for(schema)
        return self._validators[name]


def turns_in_order(chat: Chat) -> Iterator[Wrong]:
    """Roles, order, and messages that say nothing."""
    before = ""
    for number, turn in enumerate(chat):
        role, calls = turn["role"], turn.get("tool_calls")
        if calls and role != "assistant":
            yield Wrong("wrong_order", f"messages.{number}: only the assistant calls tools")
        if not calls and not (turn.get("content") or "").strip():
            kind = "no_answer" if role == "assistant" else "empty_message"
            yield Wrong(kind, f"messages.{number}: the {role} message is empty")
        if role not in FOLLOWS[before]:
            yield _misplaced(number, before, role)
        before = "call" if role == "assistant" and calls else role
    if before not in ("assistant", "call"):
        yield Wrong("no_answer", "row: the last message must be the assistant's")


def _misplaced(number: int, before: str, role: str) -> Wrong:
    if role == "tool":
        return Wrong("result_without_call", f"messages.{number}: a tool's result after {before or 'nothing'}")
    if before == "call":
        return Wrong("call_without_result", f"messages.{number}: {role} right after a tool call")
    after = f"after {before}" if before else "first"
    return Wrong("wrong_order", f"messages.{number}: {role} {after}; {' or '.join(FOLLOWS[before])} is expected")


def mend_calls(chat: Chat, toolbox: Toolbox) -> Iterator[Wrong]:
    """Checks every call, and writes it as rows have it: wire name, arguments an object, results in the calls' order."""
    for number, turn in enumerate(chat):
        if not turn.get("tool_calls"):
            continue
        calls, ids = [], []
        for position, call in enumerate(turn["tool_calls"]):
            ids.append(call.get("id") if isinstance(call, dict) else None)
            try:
                calls.append(_mended(call, f"messages.{number}.tool_calls.{position}", toolbox))
            except Wrong as wrong:
                yield wrong
        turn["tool_calls"] = calls
        yield from _match_results(chat, number, ids)


def _mended(call: Any, key: str, toolbox: Toolbox) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Wrong("bad_arguments", f"{key}: a call is {{function: {{name, arguments}}}}")
    name, arguments = dotted_name(function["name"]), function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise Wrong("bad_arguments", f"{key}: {name}: arguments are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise Wrong("bad_arguments", f"{key}: {name}: arguments are no object: {arguments!r}")
    if name not in toolbox.tools:
        raise Wrong("unknown_tool", f"tool {name!r} is called but not in the catalogue (data.tools)")
    if fault := toolbox.faults_of(name, arguments):
        raise Wrong("bad_arguments", f"{key}: {name}: {fault}")
    return {"type": "function", "function": {"name": wire_name(name), "arguments": arguments}}


def _match_results(chat: Chat, number: int, ids: list[Any]) -> Iterator[Wrong]:
    """Results follow their calls; where they carry ids, they are put in the order of the calls."""
    end = number + 1
    while end < len(chat) and chat[end]["role"] == "tool":
        end += 1
    results = chat[number + 1 : end]
    if not results:
        return
    if len(results) > len(ids):
        yield Wrong("result_without_call", f"messages.{number}: {len(ids)} calls, {len(results)} results")
    elif len(results) < len(ids):
        yield Wrong("call_without_result", f"messages.{number}: {len(ids)} calls, {len(results)} results")
    named = [result.get("tool_call_id") for result in results]
    if any(named) and all(ids):
        if stray := [name for name in named if name and name not in ids]:
            yield Wrong("result_without_call", f"messages.{number + 1}: tool_call_id {stray[0]!r} is no call's id")
        elif all(named):
            chat[number + 1 : end] = sorted(results, key=lambda result: ids.index(result["tool_call_id"]))


def text_of(chat: Chat) -> str:
    """All that is said in a conversation, and the values its calls carry."""
    said = [turn["content"] for turn in chat if turn.get("content")]
    for turn in chat:
        for call in turn.get("tool_calls") or ():
            said.append(json.dumps(call["function"]["arguments"], ensure_ascii=False))
    return "\n".join(said)


def in_text(text: str) -> Iterator[Wrong]:
    """Control tokens, broken characters, mojibake, secrets and personal data; a finding of each kind at most."""
    if "<|" in text and (token := CONTROL.search(text)):
        yield Wrong("control_token", f"the text holds {token[0]}")
    if personal_data.holds_byte(text, _BAD_BYTES) and (bad := BAD_CHARACTERS.search(text)):
        yield Wrong("bad_character", f"the text holds U+{ord(bad[0]):04X}, near {_near(text, bad.start())}")
    if not text.isascii() and (broken := mojibake(text)):
        yield Wrong("mojibake", f"the text looks decoded wrongly: {broken!r}")
    for kind, found in personal_data.first_of_each(text).items():
        yield Wrong(found.severity, f"the text holds {kind}: {found.masked}")


def mended(text: str) -> str:
    """The text repaired as `--fix` does: read in the right encoding, broken characters gone, secrets masked."""
    from ftfy import fix_encoding

    if not text.isascii() and mojibake(text):
        text = "\n".join(fix_encoding(line) for line in text.split("\n"))
    return personal_data.masked(BAD_CHARACTERS.sub("", text))


def mojibake(text: str) -> str | None:
    """The word that shows that text was read in a wrong encoding, or None."""
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    if not personal_data.holds_byte(text, _MOJIBAKE_BYTES) or not _MAYBE_MOJIBAKE.search(text):
        return None  # a hundred times faster than ftfy's own look
    for line in text.split("\n"):
        if is_bad(line) and fix_encoding(line) != line:
            return next((word for word in line.split() if is_bad(word)), line)[:40]
    return None


def _near(text: str, at: int) -> str:
    return repr(BAD_CHARACTERS.sub("?", text[max(0, at - 12) : at + 12]))
