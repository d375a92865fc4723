"""Pairs of a chosen and a rejected answer: DPO's in the forms people have, OpenAI's, and KTO's single answers.

{"prompt" or "question" or "instruction" or "messages", "chosen", "rejected"}     an answer is text, a turn or turns
{"chosen", "rejected"}                                                            whole conversations
{"input": {"messages", "tools"}, "preferred_output", "non_preferred_output"}      OpenAI's
{"prompt", "completion", "label"}                                                 KTO's: good (true) or bad (false)
"""

from collections.abc import Mapping
from typing import Any

from tuneline.stages.prepare.checks.problems import RowError
from tuneline.stages.prepare.formats.reading import Format, Reading, instruction_text, message
from tuneline.stages.prepare.formats.rendered_text import parse_conversation
from tuneline.stages.prepare.rows import Chat

_CONVERSATIONS = ("prompt", "messages", "conversations", "question", "query", "instruction", "input")
"""Keys that hold what was asked, the first that is there."""
PAIR_KEYS = ("chosen", "rejected")


def is_preference(value: Mapping[str, Any]) -> bool:
    """Return whether a record has a preferred answer, or says whether its answer is a good one."""
    if any(all(value.get(key) is not None for key in keys) for keys in PREFERENCE.needed):
        return True
    return _label(value) is not None and any(
        all(value.get(key) is not None for key in keys)
        for keys in (("prompt", "completion"), ("messages",), ("conversations",))
    )


def read_preference(value: Mapping[str, Any], reading: Reading) -> Chat:
    """Return the conversation with the chosen answer.

    Raises:
        RowError: the recipe does not say `learn: chosen`, or the answer is a bad one of KTO's.
    """
    if reading.learn != "chosen":
        raise RowError("preference", "a pair of a better and a worse answer, which is for preference training")
    if "chosen" in value:
        return _with_answer(_asked(value, reading), value["chosen"], "chosen", reading)
    if "preferred_output" in value:
        return _with_answer(_asked(value, reading), value["preferred_output"], "preferred_output", reading)
    if not _label(value):
        raise RowError("left_out", "a bad answer (label: false) is not trained on")
    if "completion" in value:
        return _with_answer(_asked(value, reading), value["completion"], "completion", reading)
    return _asked(value, reading)


def _label(value: Mapping[str, Any]) -> bool | None:
    """Return whether a record calls its answer a good one, or None if it does not say."""
    label = value.get("label")
    text = str(label).strip().lower()
    return None if text not in ("true", "false", "1", "0") else text in ("true", "1")


def tools_of(value: Mapping[str, Any]) -> Any:
    """Return the tools in OpenAI's `input`, or None."""
    asked = value.get("input")
    return asked.get("tools") if isinstance(asked, dict) else None


def _asked(value: Mapping[str, Any], reading: Reading) -> Chat:
    key = next((key for key in _CONVERSATIONS if value.get(key) is not None), None)
    if key is None:
        return []
    asked = value[key]
    if key == "instruction":
        return [message("user", instruction_text(value, "input"), key)]
    if isinstance(asked, dict) and "messages" in asked:
        reading.notes.add_unused(asked.keys() - {"messages", "tools", "parallel_tool_calls"}, "input's ")
        return reading.turns(asked["messages"], "input.messages")
    if isinstance(asked, str) and (parsed := parse_conversation(f"{asked}\n\nAssistant: …")):
        return parsed[1][:-1]
    return reading.turns_or_text(asked, "user", key)


def _with_answer(asked: Chat, chosen: Any, key: str, reading: Reading) -> Chat:
    """Return the conversation that ends in an answer, which may be given with all that comes before it."""
    if isinstance(chosen, str) and (parsed := parse_conversation(chosen)):
        return parsed[1]
    turns = reading.turns_or_text(chosen, "assistant", key)
    is_whole = bool(turns) and turns[0]["role"] in ("system", "user")
    if not is_whole:
        return [*asked, *turns]
    head = asked if asked and asked[0]["role"] == "system" and turns[0]["role"] != "system" else []
    return [*head[:1], *turns]


PREFERENCE = Format(
    (("chosen", "rejected"), ("preferred_output", "non_preferred_output")),
    ("completion", "label", *_CONVERSATIONS),
    read_preference,
)
