"""What every export needs of a recipe: its prepared rows, its base, and its steps."""

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import Recipe
from tuneline.configs.training import Train
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import BadRequest
from tuneline.stages.checkpoints.base_config import read_config
from tuneline.stages.prepare.prepared_run import TEMPLATE, load_tools, read_prepared
from tuneline.stages.prepare.rows import Row
from tuneline.stages.train.model.adapter_targets import DENSE_MODULES, SAVED_MODULES

LARGEST_MICRO_BATCH = 8
"""Rows per forward pass that are written where the recipe leaves it to the hardware."""
SPLITS = {"train": "train.jsonl", "validation": "validation.jsonl"}


@dataclass(frozen=True)
class Export:
    """Files for another trainer."""

    files: dict[str, Any]
    """Name → text, or the value of a JSON, JSON lines or YAML file."""
    notes: list[str]
    """What the trainer has no words for."""
    next_command: str


@dataclass(frozen=True)
class ChatRow:
    """A prepared row of messages and the tools that its prompt shows."""

    messages: list[dict[str, Any]]
    """As OpenAI has them; arguments are objects, and an assistant's message may have a weight."""
    tools: list[dict[str, Any]]


@dataclass
class ExportPlan:
    """A recipe with its prepared run, and the folder that is written."""

    recipe: Recipe
    base_folder: Path
    prepared: Artifact
    folder: Path
    model: str | None
    """The trainer's own name of the base, if the user gave one."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that the trainer cannot express, by reason."""

    @property
    def train(self) -> Train:
        """The recipe's `train`."""
        return self.recipe.train

    @property
    def base(self) -> str:
        """The base's id on the hub, or the folder of its copy on this machine."""
        if self.model:
            return self.model
        return self.recipe.base if self.recipe.revision else str(self.base_folder)

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """The prepared rows by split."""
        return {split: read_prepared(self.prepared.path / name) for split, name in SPLITS.items()}

    def chat_rows(self, split: str) -> list[ChatRow]:
        """Return the conversations of a split, in the prepared order."""
        catalogue = load_tools(self.prepared.path)
        return [
            ChatRow(row.chat(), catalogue.openai(row.tools) if catalogue and row.tools else [])
            for row in self.rows[split]
            if row.messages
        ]

    def texts(self, split: str) -> list[str]:
        """Return the rows of a split that are plain text."""
        return [row.text for row in self.rows[split] if not row.messages and row.text]

    def refuse_texts(self, trainer: str) -> None:
        """Raise BadRequest if rows are plain text, for a trainer that takes conversations alone."""
        if count := len(self.texts("train")):
            raise BadRequest(f"data.sources: {count} rows are plain text, and {trainer} trains on conversations alone")

    @property
    def template(self) -> str | None:
        """The tuned model's chat template, if it is not the base's own."""
        file = self.prepared.path / TEMPLATE
        return file.read_text("utf-8") if file.exists() else None

    @property
    def micro_batch_rows(self) -> int:
        """Rows per forward pass on one GPU: the recipe's, else the largest power of two up to 8 that divides a step."""
        return self.recipe.compute.micro_batch_rows or math.gcd(self.train.batch_rows, LARGEST_MICRO_BATCH)

    @property
    def accumulation_steps(self) -> int:
        """Forward passes per optimizer step on one GPU."""
        return max(1, self.train.batch_rows // self.micro_batch_rows)

    @property
    def steps(self) -> int:
        """Optimizer steps of the training."""
        epoch_steps = math.ceil(len(self.rows["train"]) / self.train.batch_rows)
        return self.train.max_steps or math.ceil(self.train.epochs * epoch_steps)

    def target_modules(self) -> list[str]:
        """Return the names of the adapted modules.

        Raises:
            BadRequest: a Llama 4, whose experts Tuneline splits into modules that other trainers do not have.
        """
        model_type = read_config(self.base_folder).get("model_type")
        if unknown := [target for target in self.train.targets if target not in DENSE_MODULES]:
            raise BadRequest(f"train.targets: {unknown[0]}: other trainers have no name for it; remove it to export")
        if str(model_type).startswith("llama4"):
            raise BadRequest(f"base: a {model_type}: Tuneline splits its experts into modules of its own; no export")
        return [name for target in self.train.targets for name in DENSE_MODULES[target]]

    def saved_modules(self) -> list[str]:
        """Return PEFT's names of the modules that are trained fully."""
        return [SAVED_MODULES[name] for name in self.train.modules_to_save]

    def notes(self, *more: str) -> list[str]:
        """Return a line for each part of the recipe that another trainer has no words for, and for rows left out."""
        sections = [
            name
            for name in ("evaluate", "convert", "serve", "watch")
            if getattr(self.recipe, name) != type(getattr(self.recipe, name))()
        ]
        lines = [f"{', '.join(sections)}: not part of a training"] if sections else []
        if self.train.init_from:
            lines.append(f"train.init_from: {self.train.init_from}: not written; name that run's adapter yourself")
        lines += [f"{count} rows left out: {reason}" for reason, count in self.left_out.items()]
        return [*lines, *more]
