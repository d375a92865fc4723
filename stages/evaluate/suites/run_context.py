"""What suites and graders need from a prepared run: its catalogue, preselector, styles and token counter."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue
from tuneline.configs.recipe import Recipe
from tuneline.core.errors import BadRecipe
from tuneline.stages.evaluate.suites.style_classifier import StyleClassifier, held_out_passages
from tuneline.stages.evaluate.suites.training_pairs import training_pairs
from tuneline.stages.prepare.prepared_run import load_tools
from tuneline.stages.prepare.rendering.tool_preselector import PRESELECTOR_FILE, Preselector
from tuneline.stages.run_artifacts import open_stage


def estimate_tokens(text: str) -> int:
    """Return an upper estimate of a text's tokens, at three characters each, so that a text cut by it fits."""
    return len(text) // 3 + 1


@dataclass(frozen=True)
class RunContext:
    """A run's catalogue, preselector, styles and token counter; what takes time is computed on first use."""

    catalogue: Catalogue | None = None
    context_tokens: int = 2048
    """Length of the context it is served with."""
    prepared: Path | None = None
    """The folder of the prepare stage; None for a recipe without a run."""
    count_tokens: Callable[[str], int] = field(default=estimate_tokens)
    nearest: int = 16
    """Tools shown with each request in a run that was prepared with a preselector."""

    def shown_tools(self, suite_setting: int | None) -> int | None:
        """Return how many tools a request is shown, or None for the whole catalogue.

        A suite's `offered` goes before what the run was prepared with.
        """
        has_preselector = self.prepared is not None and (self.prepared / PRESELECTOR_FILE).exists()
        return suite_setting or (self.nearest if has_preselector else None)

    def schemas(self, name: str) -> dict[str, Any]:
        """Return the JSON Schema of a tool's arguments, or an empty one if the catalogue has no such tool."""
        tool = self.catalogue.tools.get(name) if self.catalogue else None
        return tool.parameters if tool else {}

    @cached_property
    def preselector(self) -> Preselector:
        """The run's preselector; trained here if it was prepared without one."""
        if self.catalogue is None or self.prepared is None:
            raise BadRecipe("evaluate.suites: `offered` needs a catalogue (data.tools) to choose from")
        if (self.prepared / PRESELECTOR_FILE).exists():
            return Preselector.load(self.prepared)
        return Preselector.from_catalogue(
            self.catalogue, zip(*training_pairs(self.prepared / "train.jsonl"), strict=True)
        )

    @cached_property
    def passages(self) -> list[tuple[str, str]]:
        """(style, text) of each validation row that has a style; the model was not trained on them."""
        return held_out_passages(self.prepared / "validation.jsonl") if self.prepared else []

    @cached_property
    def styles(self) -> StyleClassifier:
        """The classifier of the run's styles."""
        return StyleClassifier(self.passages)

    @cached_property
    def style_pairs(self) -> tuple[dict[str, str], ...]:
        """Each style of the run as `style`, with the next one as `other`."""
        names = sorted({style for style, _ in self.passages})
        return tuple({"style": s, "other": names[(i + 1) % len(names)]} for i, s in enumerate(names))


NO_RUN = RunContext()
"""The context of items that need no run: no catalogue, no styles."""


def open_run_context(recipe: Recipe, run: Path) -> RunContext:
    """Return the context of a run whose prepare stage is finished."""
    prepared = open_stage(run, "prepare").path
    has_long_texts = any(suite.lengths for suite in recipe.evaluate.suites)
    count_tokens = _token_counter(recipe) if has_long_texts else estimate_tokens
    return RunContext(load_tools(prepared), recipe.serve.context, prepared, count_tokens, recipe.data.nearest)


def _token_counter(recipe: Recipe) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    from tuneline.stages.fetch.bases import open_base

    tokenizer: Any = Tokenizer.from_file(str(open_base(recipe).path / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
