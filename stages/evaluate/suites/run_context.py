"""What items and marks need to know about a run: its catalogue, its styles, its context, how it counts tokens."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue
from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.errors import BadRecipe
from tuneline.stages.evaluate.suites.style_classifier import Styles, held_out_passages
from tuneline.stages.prepare import load_tools
from tuneline.stages.prepare.rendering.tool_preselector import FILE, Preselector


def rough_tokens(text: str) -> int:
    """Three characters a token: more than there are, so that a text made by it fits."""
    return len(text) // 3 + 1


@dataclass(frozen=True)
class Known:
    """Of one run; the parts that take time are made when they are first asked for."""

    catalogue: Catalogue | None = None
    context: int = 2048
    prepared: Path | None = None
    tokens: Callable[[str], int] = field(default=rough_tokens)
    nearest: int = 16
    """How many tools a run shows that was prepared with a preselector."""

    def offered(self, asked: int | None) -> int | None:
        """How many tools are shown with a request: as a suite asks, else as the run was prepared; None is all."""
        prepared_so = self.prepared is not None and (self.prepared / FILE).exists()
        return asked or (self.nearest if prepared_so else None)

    def schemas(self, tool: str) -> dict[str, Any]:
        """The JSON Schema of a tool's arguments; an empty one of a tool nobody has."""
        found = self.catalogue.tools.get(tool) if self.catalogue else None
        return found.parameters if found else {}

    @cached_property
    def preselector(self) -> Preselector:
        if self.catalogue is None or self.prepared is None:
            raise BadRecipe("evaluate.suites: `offered` needs a catalogue (data.tools) to choose from")
        from tuneline.stages.evaluate.scoring.baseline_classifier import training_pairs

        if (self.prepared / FILE).exists():
            return Preselector.read(self.prepared)
        return Preselector.of(self.catalogue, zip(*training_pairs(self.prepared / "train.jsonl"), strict=True))

    @cached_property
    def passages(self) -> list[tuple[str, str]]:
        """(style, text) of the documents the model has not seen."""
        return held_out_passages(self.prepared / "validation.jsonl") if self.prepared else []

    @cached_property
    def styles(self) -> Styles:
        return Styles(self.passages)

    @cached_property
    def style_pairs(self) -> tuple[dict[str, str], ...]:
        """Each style of the run, with the next one."""
        names = sorted({style for style, _ in self.passages})
        return tuple({"style": s, "other": names[(i + 1) % len(names)]} for i, s in enumerate(names))


def of_run(recipe: Recipe, run: Path) -> Known:
    """What is known about a run that is prepared."""
    prepared = artifacts.open_artifact(run / "prepare").path
    count = _counter(recipe) if any(suite.lengths for suite in recipe.evaluate.suites) else rough_tokens
    return Known(load_tools(prepared), recipe.serve.context, prepared, count, recipe.data.nearest)


def _counter(recipe: Recipe) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    from tuneline.stages.fetch.bases import open_base

    tokenizer: Any = Tokenizer.from_file(str(open_base(recipe).path / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
