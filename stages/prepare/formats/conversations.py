"""What a record means: the formats people have, told apart by their keys, and each turned into one conversation.

    messages           {"messages": [{"role", "content", "tool_calls"}], "tools": [names, or OpenAI's schemas]}
    sharegpt           {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}
    alpaca             {"instruction", "input", "output", "system", "history"}
    prompt-completion  {"prompt", "completion"}, text or messages
    text               {"text", "style"}, or a .txt or .md file

Whatever the format, an answer written as `[THINK] … [CALL] name(args) [RESULT] … [RESPONSE] …` becomes real turns.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tuneline.stages.prepare.checks.problems import Wrong
from tuneline.stages.prepare.formats.transcripts import is_transcript, turns_of

Chat = list[dict[str, Any]]

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
"""Names of roles as the formats use them; `call` is a turn that holds a tool call as JSON."""


def format_of(value: Any) -> str:
    """The name of a record's format.

    Raises:
        Wrong: none of them.
    """
    if not isinstance(value, dict):
        raise Wrong("not_a_row", f"a row is an object, this is {type(value).__name__}")
    for name, needed in _NEEDED.items():
        if all(key in value for key in needed):
            return name
    known = "; ".join(f"{' + '.join(needed)} ({name})" for name, needed in _NEEDED.items())
    raise Wrong("not_a_row", f"keys {', '.join(map(str, value)) or '(none)'}: looked for {known}")


def refuse_other_format(value: Any, form: str) -> None:
    """Raise Wrong unless a record has the keys of the format its file is in."""
    if not isinstance(value, dict):
        raise Wrong("not_a_row", f"a row is an object, this is {type(value).__name__}")
    if missing := [key for key in _NEEDED[form] if key not in value]:
        there = ", ".join(map(str, value)) or "no keys"
        raise Wrong("not_a_row", f"{missing[0]}: not there (the file is in {form} format); there are {there}")


def mapped(value: Any, columns: Mapping[str, str]) -> Any:
    """A record with its columns under the names a format uses.

    Raises:
        Wrong: a column is not there.
    """
    if not columns or not isinstance(value, dict):
        return value
    if missing := [column for column in columns.values() if column not in value]:
        raise Wrong("not_a_row", f"column {missing[0]!r} is not there; there are {', '.join(map(str, value))}")
    rest = {key: item for key, item in value.items() if key not in columns.values()}
    return rest | {target: value[column] for target, column in columns.items()}


def conversation(value: Mapping[str, Any], form: str, *, keep_thinking: bool) -> tuple[Chat, Any]:
    """(messages, tools as they stand) of a record in a format.

    Raises:
        Wrong: naming what is wrong with it.
    """
    chat = _READERS[form](value)
    if value.get("system") and not (chat and chat[0]["role"] == "system"):
        chat = [{"role": "system", "content": _string(value["system"], "system")}, *chat]
    return _unrolled(chat, keep_thinking), _maybe_json(value.get("tools"))


def _messages(value: Mapping[str, Any]) -> Chat:
    return _turns(_maybe_json(value["messages"]), "messages")


def _sharegpt(value: Mapping[str, Any]) -> Chat:
    return _turns(_maybe_json(value["conversations"]), "conversations")


def _alpaca(value: Mapping[str, Any]) -> Chat:
    asked, extra = _string(value["instruction"], "instruction"), _string(value.get("input") or "", "input")
    chat: Chat = []
    for pair in value.get("history") or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise Wrong("not_a_row", "history: a list of [question, answer]")
        chat += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    question = f"{asked}\n\n{extra}" if extra.strip() else asked
    return [*chat, {"role": "user", "content": question}, _answer(value["output"], "output")]


def _prompt_completion(value: Mapping[str, Any]) -> Chat:
    prompt, completion = _maybe_list(value["prompt"]), _maybe_list(value["completion"])
    head = _turns(prompt, "prompt") if isinstance(prompt, list) else [_said("user", prompt, "prompt")]
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
        raise Wrong("not_a_row", f"{key}: a list of turns, this is {type(turns).__name__}")
    return [_turn(turn, f"{key}.{number}") for number, turn in enumerate(turns)]


def _turn(turn: Any, key: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise Wrong("not_a_row", f"{key}: a turn is an object, this is {type(turn).__name__}")
    named = turn.get("role", turn.get("from"))
    roles = SHAREGPT_ROLES if "from" in turn or "value" in turn else OPENAI_ROLES
    role = roles.get(named.lower()) if isinstance(named, str) else None
    if role is None:
        raise Wrong("wrong_role", f"{key}.role: {named!r}")
    content = _content(turn.get("content", turn.get("value")), key)
    if role == "call":
        return {"role": "assistant", "tool_calls": [_called(content or "", key)]}
    calls = turn.get("tool_calls") or ([{"function": turn["function_call"]}] if turn.get("function_call") else None)
    read: dict[str, Any] = {"role": role}
    if content is not None:
        read["content"] = content
    if calls:
        if not isinstance(calls, list):
            raise Wrong("bad_arguments", f"{key}.tool_calls: a list, this is {type(calls).__name__}")
        read["tool_calls"] = calls
    if turn.get("tool_call_id"):
        read["tool_call_id"] = turn["tool_call_id"]
    return read


def _content(content: Any, key: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part, key) for part in content)
    raise Wrong("not_a_row", f"{key}.content: text, this is {type(content).__name__}")


def _part(part: Any, key: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise Wrong("not_text", f"{key}.content: a part of type {kind!r}")


def _called(content: str, key: str) -> dict[str, Any]:
    try:
        call = json.loads(content)
        return {"function": {"name": call["name"], "arguments": call.get("arguments", call.get("parameters", {}))}}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Wrong("bad_arguments", f'{key}: a call is {{"name": …, "arguments": …}}: {content[:60]!r}') from None


def _said(role: str, content: Any, key: str) -> dict[str, Any]:
    return {"role": role, "content": _string(content, key)}


def _answer(content: Any, key: str) -> dict[str, Any]:
    return _said("assistant", content, key)


def _string(content: Any, key: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    raise Wrong("not_a_row", f"{key}: text, this is {type(content).__name__}")


def _maybe_json(value: Any) -> Any:
    """A table's cell, or some datasets' field, holds messages or tools as JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise Wrong("broken_json", f"not JSON: {error}: {value[:40]!r}") from None
    return None if value == "" else value


def _maybe_list(value: Any) -> Any:
    return value if isinstance(value, str) else _maybe_json(value)


def _unrolled(chat: Chat, keep_thinking: bool) -> Chat:
    """Answers written as transcripts, as the turns they stand for."""
    unrolled: Chat = []
    for turn in chat:
        content = turn.get("content")
        if turn["role"] == "assistant" and content and not turn.get("tool_calls") and is_transcript(content):
            unrolled += turns_of(content, keep_thinking=keep_thinking)
        else:
            unrolled.append(turn)
    return unrolled
