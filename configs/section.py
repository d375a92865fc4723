"""The base classes of everything in configs/: frozen, and strict about unknown keys."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer, SerializationInfo, ValidationError

from tuneline.core.redaction import redact_url

WITH_CREDENTIALS = {"credentials": True}
"""Serialization context for another process that needs them; without it, what is written has none."""


def _serialize_provider(provider: str, info: SerializationInfo) -> str:
    return provider if info.context == WITH_CREDENTIALS else redact_url(provider)


WITHOUT_CREDENTIALS = PlainSerializer(_serialize_provider, return_type=str)
ProviderName = Annotated[str, WITHOUT_CREDENTIALS]
"""A provider's name or address; credentials in the address are used, and masked wherever a recipe is written."""
LEFT_OUT_UNLESS_SET = "left out unless set"
"""Metadata of a setting that came later: while it has its default, no fingerprint has it, and older runs stay valid."""
SHOWN_CHARACTERS = 80
"""Of a wrong value in a message."""


class StrictModel(BaseModel):
    """A frozen entry of a table or a catalogue; unknown keys are errors. It has no JSON Schema that people read.

    Validators are built on first use (`defer_build`), which keeps imports fast.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)


class Section(StrictModel):
    """A StrictModel whose field docstrings become the descriptions in its JSON Schema: a part of a file users write."""

    model_config = ConfigDict(use_attribute_docstrings=True)


def explain_first(error: ValidationError) -> str:
    """Return the first of pydantic's errors in a line: the key, the value if it is plain, and what is wrong with it."""
    first = error.errors()[0]
    key = join_key(first["loc"]) or "the file"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {shorten(first['input'])}: {message}" if is_plain(first["input"]) else f"{key}: {message}"


def join_key(location: Iterable[str | int]) -> str:
    """Return the parts of a key, as pydantic's errors give them, joined by dots; long ones are cut."""
    return ".".join(str(part)[:SHOWN_CHARACTERS] for part in location)


def is_plain(value: object) -> bool:
    """Return whether a value is a text, a number, a truth value or None, which a message can show."""
    return isinstance(value, str | int | float | bool | None)


def shorten(value: object) -> str:
    """Return a value as Python writes it, at most `SHOWN_CHARACTERS` of it."""
    text = repr(value[:SHOWN_CHARACTERS] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
