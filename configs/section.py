"""The base classes of everything in configs/: frozen, and strict about unknown keys."""

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A frozen entry of a table or a catalogue; unknown keys are errors. It has no JSON Schema that people read.

    Validators are built on first use (`defer_build`), which keeps imports fast.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Section(StrictModel):
    """A StrictModel whose field docstrings become the descriptions in its JSON Schema: a part of a file users write."""

    model_config = ConfigDict(use_attribute_docstrings=True)
