"""Detects the dataset format of a record by its keys, and converts each record to a conversation.

    messages           {"messages": [{"role", "content", "tool_calls"}], "tools": [names, or OpenAI's schemas]}
    sharegpt           {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}
    alpaca             {"instruction", "input", "output", "system", "history"}
    prompt-completion  {"prompt", "completion"}, text or messages
    text               {"text", "style"}, or a .txt or .md file

In every format an answer written as `[THINK] … [CALL] name(args) [RESULT] … [RESPONSE] …` is split into turns.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tuneline.stages.prepare.checks.problems import RowError
from tuneline.stages.prepare.formats.transcripts import is_transcript, parse_transcript
from tuneline.stages.prepare.rows import Chat

OPENAI_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
SHAREGPT_ROLES = OPENAI_ROLES | {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "call",
    "tool_call": "call",
    "observation": "tool",
    "tool_response": "tool",
}
"""Our role for each name the formats use; `call` is a turn whose text is a tool call as JSON."""


def detect_format(value: Any) -> str:
    """Return the name of a record's format.

    Raises:
        RowError: The record has the keys of no format.
    """
    if not isinstance(value, dict):
        raise RowError("not_a_row", f"a row is an object, this is {type(value).__name__}")
    for name, needed in _NEEDED.items():
        if all(key in value for key in needed):
            return name
    known = "; ".join(f"{' + '.join(needed)} ({name})" for name, needed in _NEEDED.items())
    raise RowError("not_a_row", f"keys {', '.join(map(str, value)) or '(none)'}: looked for {known}")


def require_format(value: Any, form: str) -> None:
    """Raise RowError unless a record has the keys of this format, that of the first record of its file."""
    if not isinstance(value, dict):
        raise RowError("not_a_row", f"a row is an object, this is {type(value).__name__}")
    if missing := [key for key in _NEEDED[form] if key not in value]:
        keys = ", ".join(map(str, value)) or "no keys"
        raise RowError("not_a_row", f"{missing[0]}: not there (the file is in {form} format); there are {keys}")


def rename_columns(value: Any, columns: Mapping[str, str]) -> Any:
    """Return a record with its columns renamed; `columns` has the column for each key of a format.

    Raises:
        RowError: A column is missing.
    """
    if not columns or not isinstance(value, dict):
        return value
    if missing := [column for column in columns.values() if column not in value]:
        raise RowError("not_a_row", f"column {missing[0]!r} is not there; there are {', '.join(map(str, value))}")
    rest = {key: item for key, item in value.items() if key not in columns.values()}
    return rest | {target: value[column] for target, column in columns.items()}


def to_conversation(value: Mapping[str, Any], form: str, *, keep_thinking: bool) -> tuple[Chat, Any]:
    """Return (messages, tools) of a record in a format; the tools are as in the record.

    Raises:
        RowError: A value is not as the format has it.
    """
    chat = _READERS[form](value)
    if value.get("system") and not (chat and chat[0]["role"] == "system"):
        chat = [{"role": "system", "content": _string(value["system"], "system")}, *chat]
    return _split_transcripts(chat, keep_thinking), _maybe_json(value.get("tools"))


def _messages(value: Mapping[str, Any]) -> Chat:
    return _turns(_maybe_json(value["messages"]), "messages")


def _sharegpt(value: Mapping[str, Any]) -> Chat:
    return _turns(_maybe_json(value["conversations"]), "conversations")


def _alpaca(value: Mapping[str, Any]) -> Chat:
    instruction, extra = _string(value["instruction"], "instruction"), _string(value.get("input") or "", "input")
    chat: Chat = []
    for pair in value.get("history") or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("not_a_row", "history: a list of [question, answer]")
        chat += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    question = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    return [*chat, {"role": "user", "content": question}, _answer(value["output"], "output")]


def _prompt_completion(value: Mapping[str, Any]) -> Chat:
    prompt, completion = _maybe_list(value["prompt"]), _maybe_list(value["completion"])
    head = _turns(prompt, "prompt") if isinstance(prompt, list) else [_message("user", prompt, "prompt")]
    tail = _turns(completion, "completion") if isinstance(completion, list) else [_answer(completion, "completion")]
    return head + tail


def _text(value: Mapping[str, Any]) -> Chat:
    return []


_NEEDED: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
}
_READERS: dict[str, Callable[[Mapping[str, Any]], Chat]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt-completion": _prompt_completion,
    "text": _text,
}


def _turns(turns: Any, key: str) -> Chat:
    if not isinstance(turns, list):
        raise RowError("not_a_row", f"{key}: a list of turns, this is {type(turns).__name__}")
    return [_turn(turn, f"{key}.{number}") for number, turn in enumerate(turns)]


def _turn(turn: Any, key: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise RowError("not_a_row", f"{key}: a turn is an object, this is {type(turn).__name__}")
    role_name = turn.get("role", turn.get("from"))
    roles = SHAREGPT_ROLES if "from" in turn or "value" in turn else OPENAI_ROLES
    role = roles.get(role_name.lower()) if isinstance(role_name, str) else None
    if role is None:
        raise RowError("wrong_role", f"{key}.role: {role_name!r}")
    content = _content(turn.get("content", turn.get("value")), key)
    if role == "call":
        return {"role": "assistant", "tool_calls": [_parse_call(content or "", key)]}
    calls = turn.get("tool_calls") or ([{"function": turn["function_call"]}] if turn.get("function_call") else None)
    message: dict[str, Any] = {"role": role}
    if content is not None:
        message["content"] = content
    if calls:
        if not isinstance(calls, list):
            raise RowError("bad_arguments", f"{key}.tool_calls: a list, this is {type(calls).__name__}")
        message["tool_calls"] = calls
    if turn.get("tool_call_id"):
        message["tool_call_id"] = turn["tool_call_id"]
    return message


def _content(content: Any, key: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part_text(part, key) for part in content)
    raise RowError("not_a_row", f"{key}.content: text, this is {type(content).__name__}")


def _part_text(part: Any, key: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise RowError("not_text", f"{key}.content: a part of type {kind!r}")


def _parse_call(content: str, key: str) -> dict[str, Any]:
    try:
        call = json.loads(content)
        return {"function": {"name": call["name"], "arguments": call.get("arguments", call.get("parameters", {}))}}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RowError("bad_arguments", f'{key}: a call is {{"name": …, "arguments": …}}: {content[:60]!r}') from None


def _message(role: str, content: Any, key: str) -> dict[str, Any]:
    return {"role": role, "content": _string(content, key)}


def _answer(content: Any, key: str) -> dict[str, Any]:
    return _message("assistant", content, key)


def _string(content: Any, key: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    raise RowError("not_a_row", f"{key}: text, this is {type(content).__name__}")


def _maybe_json(value: Any) -> Any:
    """Return messages or tools, which tables and some datasets have as JSON text; None for empty text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise RowError("broken_json", f"not JSON: {error}: {value[:40]!r}") from None
    return None if value == "" else value


def _maybe_list(value: Any) -> Any:
    return value if isinstance(value, str) else _maybe_json(value)


def _split_transcripts(chat: Chat, keep_thinking: bool) -> Chat:
    """Return the chat with each answer that is a transcript replaced by its turns."""
    turns: Chat = []
    for turn in chat:
        content = turn.get("content")
        if turn["role"] == "assistant" and content and not turn.get("tool_calls") and is_transcript(content):
            turns += parse_transcript(content, keep_thinking=keep_thinking)
        else:
            turns.append(turn)
    return turns
