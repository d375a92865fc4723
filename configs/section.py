"""The base classes of everything in configs/: frozen, and strict about unknown keys."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer, SerializationInfo

from tuneline.core.redaction import redact_url

WITH_CREDENTIALS = {"credentials": True}
"""Serialization context for another process that needs them; without it, what is written has none."""


def _serialize_provider(provider: str, info: SerializationInfo) -> str:
    return provider if info.context == WITH_CREDENTIALS else redact_url(provider)


WITHOUT_CREDENTIALS = PlainSerializer(_serialize_provider, return_type=str)
ProviderName = Annotated[str, WITHOUT_CREDENTIALS]
"""A provider's name or address; credentials in the address are used, and masked wherever a recipe is written."""


class StrictModel(BaseModel):
    """A frozen entry of a table or a catalogue; unknown keys are errors. It has no JSON Schema that people read.

    Validators are built on first use (`defer_build`), which keeps imports fast.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Section(StrictModel):
    """A StrictModel whose field docstrings become the descriptions in its JSON Schema: a part of a file users write."""

    model_config = ConfigDict(use_attribute_docstrings=True)
