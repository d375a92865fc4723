"""Reads a conversation's turns in the forms that APIs and datasets give them.

    OpenAI      {"role", "content", "tool_calls" or "function_call"}, and the items of its Responses API
    Anthropic   content is a list of blocks: text, thinking, tool_use, tool_result
    ShareGPT    {"from", "value"}, where `function_call` is a turn of its own
    pairs       {"human", "assistant"}

Turns come out as OpenAI's, calls as they are: names and arguments are checked where the tools are known.
"""

import json
from collections.abc import Mapping
from typing import Any

from tuneline.stages.prepare.checks.notes import Notes
from tuneline.stages.prepare.checks.problems import RowError
from tuneline.stages.prepare.formats.json_values import parse_calls, parse_json, to_call
from tuneline.stages.prepare.rows import Chat

OPENAI_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
}
SHAREGPT_ROLES = OPENAI_ROLES | {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "gemini": "assistant",
    "claude": "assistant",
    "llama": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "call",
    "tool_call": "call",
    "function-call": "call",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "function-response": "tool",
}
"""Our role for each name the formats use; `call` is a turn whose text is a tool call as JSON."""
LOSS_KEYS = ("weight", "train", "training", "loss", "loss_mask", "learn", "train_on_turn")
"""Keys of a turn that say whether it is in the loss."""
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "thought")
_LOSS_KEYS, _REASONING_KEYS = frozenset(LOSS_KEYS), frozenset(REASONING_KEYS)
CONTENT_KEYS = ("content", "value", "text")
_CALL_KEYS = ("tool_calls", "function_call")
TURN_KEYS = frozenset(
    ("role", "from", "tool_call_id", "name", "refusal", *CONTENT_KEYS, *_CALL_KEYS, *LOSS_KEYS, *REASONING_KEYS)
)
_ITEM_KEYS = frozenset(
    (
        "type",
        "id",
        "status",
        "call_id",
        "name",
        "arguments",
        "output",
        "summary",
        "content",
        "role",
        "encrypted_content",
    )
)
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_MEDIA_PARTS = ("image", "image_url", "input_image", "audio", "input_audio", "video", "video_url", "input_file")
PART_TYPES = frozenset(("thinking", "redacted_thinking", "tool_use", "tool_result", *_TEXT_PARTS, *_MEDIA_PARTS))
"""The types of parts of a content, which no turn has."""
_PLAIN = frozenset(("role", "content"))
_PLAIN_ROLES = frozenset(("system", "user", "assistant"))
_PAIRS = (("human", "assistant"), ("user", "assistant"), ("human", "gpt"), ("user", "bot"), ("input", "output"))


def read_turns(turns: Any, key: str, notes: Notes, *, keep_thinking: bool = False) -> Chat:
    """Return the turns of a conversation; one with results of tools among its blocks becomes several.

    Raises:
        RowError: a turn has an unknown role, or what it says is no text.
    """
    if not isinstance(turns, list):
        raise RowError("not_a_row", f"{key}: expected a list of turns, not {type(turns).__name__}")
    chat: Chat = []
    for number, turn in enumerate(turns):
        if (
            type(turn) is dict
            and turn.keys() == _PLAIN
            and turn["role"] in _PLAIN_ROLES
            and type(turn["content"]) is str
        ):
            chat.append(dict(turn))
        else:
            chat += _TurnReader(f"{key}.{number}", notes, keep_thinking).read(turn)
    return chat


class _TurnReader:
    """Reads one turn, which `key` names in messages."""

    def __init__(self, key: str, notes: Notes, keep_thinking: bool) -> None:
        self._key, self._notes, self._keep_thinking = key, notes, keep_thinking

    def read(self, turn: Any) -> Chat:
        if not isinstance(turn, dict):
            raise RowError("not_a_row", f"{self._key}: a turn must be an object, not {type(turn).__name__}")
        if None in turn.values():  # Arrow writes what is not there
            turn = {name: value for name, value in turn.items() if value is not None}
        if "role" not in turn and "from" not in turn:
            if turn.get("type") in _ITEMS:
                self._report_unused(turn, _ITEM_KEYS)
                return _ITEMS[turn["type"]](self, turn)
            for question, answer in _PAIRS:
                if question in turn and answer in turn:
                    self._report_unused(turn, {question, answer})
                    pair = (("user", turn[question]), ("assistant", turn[answer]))
                    return [{"role": role, "content": self._text(content)} for role, content in pair]
        return self._read_message(turn)

    def _read_message(self, turn: dict[str, Any]) -> Chat:
        role = self._role(turn)
        known = TURN_KEYS | _ITEM_KEYS if turn.get("type") == "message" else TURN_KEYS
        self._report_unused(turn, known)
        content = next((turn[key] for key in CONTENT_KEYS if key in turn), None)
        if "content" in turn and "value" in turn and turn["content"] != turn["value"]:
            raise RowError("not_a_row", f"{self._key}: content and value differ; keep one of them")
        if role == "call":
            calls = parse_calls(content, self._key)
            return [self._weigh(turn, {"role": "assistant", "tool_calls": calls})]
        if role == "tool":
            return [self._result(turn, content)]
        if isinstance(content, list):
            chat = self._read_blocks(role, content)
        else:
            chat = [{"role": role} | ({} if content is None else {"content": self._text(content)})]
        message = chat[-1]
        if turn.get("refusal") and not message.get("content"):
            message["content"] = self._text(turn["refusal"])
        if calls := self._calls(turn):
            message["tool_calls"] = [*message.get("tool_calls", ()), *calls]
        if not _REASONING_KEYS.isdisjoint(turn):
            self._add_reasoning(message, [turn[key] for key in REASONING_KEYS if turn.get(key)])
        if turn.get("name") and turn["name"] != turn.get("role"):
            self._notes.add("unused_key", f"a turn's 'name' is not read ({role})")
        return [*chat[:-1], self._weigh(turn, message)]

    def _role(self, turn: Mapping[str, Any]) -> str:
        name = turn.get("role", turn.get("from"))
        roles = SHAREGPT_ROLES if "from" in turn or "value" in turn else OPENAI_ROLES
        role = roles.get(name.lower()) if isinstance(name, str) else None
        if role is None:
            raise RowError("wrong_role", f"{self._key}.role: {name!r}")
        return role

    def _result(self, turn: Mapping[str, Any], content: Any) -> dict[str, Any]:
        message = {"role": "tool", "content": self._result_text(content)}
        return message | {key: turn[key] for key in ("tool_call_id", "name") if turn.get(key)}

    def _result_text(self, content: Any) -> str:
        """Return what a tool answered as text: text parts joined, any other value as JSON."""
        if content is None or isinstance(content, str):
            return content or ""
        if isinstance(content, list) and content and all(_is_text_part(part) for part in content):
            return "".join(self._part_text(part) for part in content)
        if isinstance(content, list) and any(_is_media(part) for part in content):
            raise RowError("not_text", f"{self._key}.content: a part that is not text")
        return json.dumps(content, ensure_ascii=False)

    def _calls(self, turn: Mapping[str, Any]) -> list[Any]:
        calls = parse_json(turn.get("tool_calls"), f"{self._key}.tool_calls") or []
        if isinstance(calls, dict):
            calls = [calls]
        if not isinstance(calls, list):
            raise RowError("bad_arguments", f"{self._key}.tool_calls: expected a list, not {type(calls).__name__}")
        calls = [to_call(call) for call in calls]
        if turn.get("function_call"):
            legacy = parse_json(turn["function_call"], f"{self._key}.function_call")
            calls += [to_call(call) for call in (legacy if isinstance(legacy, list) else [legacy])]
        return calls

    def _read_blocks(self, role: str, blocks: list[Any]) -> Chat:
        """Return the turns of a list of parts: results of tools first, then what is said and called."""
        texts: list[str] = []
        calls: list[dict[str, Any]] = []
        reasoning: list[Any] = []
        results: Chat = []
        for block in blocks:
            kind = block.get("type") if isinstance(block, dict) else None
            if kind == "tool_use":
                call = {"name": block.get("name"), "arguments": block.get("input") or {}}
                calls.append({"id": block.get("id"), "function": call})
            elif kind == "tool_result":
                result = {"role": "tool", "content": self._result_text(block.get("content"))}
                results.append(result | ({"tool_call_id": block["tool_use_id"]} if block.get("tool_use_id") else {}))
            elif kind in ("thinking", "reasoning"):
                reasoning.append(block.get("thinking") or block.get("text") or block.get("summary") or "")
            elif kind == "redacted_thinking":
                self._notes.add("thinking_dropped", "thinking that its provider encrypted is left out")
            else:
                texts.append(self._part_text(block))
        if results and not texts and not calls:
            return results
        message: dict[str, Any] = {"role": role, "content": "".join(texts)}
        if calls:
            message["tool_calls"] = calls
        self._add_reasoning(message, [block for block in reasoning if block])
        return [*results, message]

    def _text(self, content: Any) -> str:
        if isinstance(content, str):
            return content
        if isinstance(content, list):
            return "".join(map(self._part_text, content))
        if _is_text_part(content):
            return self._part_text(content)
        if _is_media(content):
            raise RowError("not_text", f"{self._key}.content: a part of type {content['type']!r}")
        raise RowError("not_a_row", f"{self._key}.content: expected text, not {type(content).__name__}")

    def _part_text(self, part: Any) -> str:
        if isinstance(part, str):
            return part
        key = _TEXT_PARTS.get(part.get("type") or "text") if isinstance(part, dict) else None
        if key and isinstance(part.get(key), str):
            return str(part[key])
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        raise RowError("not_text", f"{self._key}.content: a part of type {kind!r}")

    def _add_reasoning(self, message: dict[str, Any], reasoning: list[Any]) -> None:
        """Put the thinking before what is said, or report that it is left out."""
        if not reasoning:
            return
        if message["role"] != "assistant":
            self._notes.add("unused_key", f"thinking of a turn of the {message['role']} is not read")
            return
        text = "\n".join(part if isinstance(part, str) else self._result_text(part) for part in reasoning).strip()
        if self._keep_thinking:
            message["content"] = f"<think>{text}</think>\n{message.get('content') or ''}"
        else:
            message["reasoning_content"] = text
            self._notes.add("thinking", "the thinking of answers is trained on if the base's template writes it")

    def _weigh(self, turn: Mapping[str, Any], message: dict[str, Any]) -> dict[str, Any]:
        """Return the message with its weight, if a key says that it is not in the loss."""
        if _LOSS_KEYS.isdisjoint(turn):
            return message
        for key in LOSS_KEYS:
            if key not in turn:
                continue
            if turn[key] not in (0, 1):
                raise RowError("bad_weight", f"{self._key}.{key}: {turn[key]!r}: 0 or 1, false or true")
            if message["role"] == "assistant" and not turn[key]:
                message["weight"] = 0
            elif message["role"] != "assistant" and turn[key]:
                self._notes.add(
                    "unused_key", f"{key!r} of a turn of the {message['role']}: only answers are trained on"
                )
        return message

    def _report_unused(self, turn: Mapping[str, Any], known: frozenset[str] | set[str]) -> None:
        if turn.keys() <= known:
            return
        if unused := [key for key in turn.keys() - known if turn[key] not in ("", [], {})]:
            self._notes.add_unused(unused, "a turn's ")

    def _read_call_item(self, item: dict[str, Any]) -> Chat:
        call = {"name": item.get("name"), "arguments": item.get("arguments", {})}
        return [{"role": "assistant", "tool_calls": [{"id": item.get("call_id"), "function": call}]}]

    def _read_output_item(self, item: dict[str, Any]) -> Chat:
        result = {"role": "tool", "content": self._result_text(item.get("output"))}
        return [result | ({"tool_call_id": item["call_id"]} if item.get("call_id") else {})]

    def _read_reasoning_item(self, item: dict[str, Any]) -> Chat:
        if item.get("summary") or item.get("content"):
            self._notes.add("thinking_dropped", "a reasoning item is left out")
        return []


_ITEMS = {
    "function_call": _TurnReader._read_call_item,
    "function_call_output": _TurnReader._read_output_item,
    "reasoning": _TurnReader._read_reasoning_item,
}
"""What reads each kind of item of OpenAI's Responses API that is no message."""


def _is_text_part(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    key = _TEXT_PARTS.get(part.get("type") or "")
    return bool(key) and isinstance(part.get(key), str)


def _is_media(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _MEDIA_PARTS
