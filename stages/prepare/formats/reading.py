"""What the readers of formats share: how they are told to read, what they return, and how texts are made turns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuneline.stages.prepare.checks.notes import Notes
from tuneline.stages.prepare.checks.problems import RowError
from tuneline.stages.prepare.formats.json_values import parse_json
from tuneline.stages.prepare.formats.turns import PART_TYPES, read_turns
from tuneline.stages.prepare.rows import Chat


@dataclass(frozen=True)
class Reading:
    """How records are read: settings of the recipe, and where it is noted what was changed or left out."""

    notes: Notes
    keep_thinking: bool = False
    learn: str = "instruction"

    def turns(self, turns: Any, key: str) -> Chat:
        """Return the turns of a conversation, which may be given as JSON text."""
        return read_turns(parse_json(turns, key, self.notes), key, self.notes, keep_thinking=self.keep_thinking)

    def turns_or_text(self, value: Any, role: str, key: str) -> Chat:
        """Return the turns that are given, or one of this role that says what is given."""
        if isinstance(value, dict):
            return self.turns([value], key)
        if not isinstance(value, str | list) or (isinstance(value, str) and not value.lstrip().startswith('[{"role"')):
            return [message(role, value, key)]
        if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
            raise RowError(
                "not_a_row", f"{key}: {len(value)} texts: a row must be an object; a file of columns is not supported"
            )
        if isinstance(value, list) and not any(_is_turn(turn) for turn in value):
            return self.turns([{"role": role, "content": value}], key)
        return self.turns(value, key)


@dataclass(frozen=True)
class Format:
    """A dataset format: the keys it is known by (one of these sets), others that it reads, and what reads it."""

    needed: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...]
    read: Callable[[Mapping[str, Any], Reading], Chat]

    def matches(self, value: Mapping[str, Any]) -> bool:
        """Return whether a record has the keys of one of the sets."""
        return any(all(value.get(key) is not None for key in keys) for keys in self.needed)

    @property
    def keys(self) -> frozenset[str]:
        """All keys that it reads."""
        return frozenset([*self.optional, *(key for keys in self.needed for key in keys)])


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and (
        not value.keys() & {"type"} or "role" in value or value["type"] not in PART_TYPES
    )


def message(role: str, content: Any, key: str) -> dict[str, Any]:
    """Return a turn that says this text."""
    return {"role": role, "content": text_of(content, key)}


def text_of(content: Any, key: str) -> str:
    """Return a text, empty for None.

    Raises:
        RowError: it is something else.
    """
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    raise RowError("not_a_row", f"{key}: expected text, not {type(content).__name__}")


def instruction_text(value: Mapping[str, Any], extra_key: str) -> str:
    """Return an instruction with what it is about below it."""
    instruction, extra = text_of(value["instruction"], "instruction"), text_of(value.get(extra_key), extra_key)
    return f"{instruction}\n\n{extra}" if extra.strip() else instruction
