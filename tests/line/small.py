"""A prepared dataset of short chats and the tiny base, to train on in seconds."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuneline.configs.recipe import Recipe
from tuneline.core.events import read_events
from tuneline.core.paths import ROOT
from tuneline.stages.fetch import fetch
from tuneline.stages.prepare import prepare
from tuneline.stages.train.job import TrainingJob
from tuneline.stages.train.launcher import launch

BASE = ROOT / "data/tiny"
FRUIT = ("apples", "pears", "plums", "figs", "limes", "kiwis")


def recipe(
    folder: Path, compute: dict[str, Any] | None = None, watch: dict[str, Any] | None = None, **train: Any
) -> Recipe:
    """Of six steps of eight rows."""
    rows = folder / "rows.jsonl"
    if not rows.exists():
        chats = [
            [f"Ana has {n} {fruit}. How many?", f"Ana has {n} {fruit}, and {n * n} {'more ' * (n % 5)}."]
            for n in range(2, 14)
            for fruit in FRUIT
        ]
        roles = ("user", "assistant")
        messages = [[{"role": r, "content": c} for r, c in zip(roles, chat, strict=True)] for chat in chats]
        rows.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in messages))
    settings = {"rank": 4, "alpha": 8, "learning_rate": 2e-3, "warmup_steps": 1, "batch_rows": 8, "max_steps": 6}
    settings |= {"save_steps": 2, "evaluate_steps": 3}
    return Recipe.model_validate(
        {
            "name": "small",
            "data": {"sources": [{"path": rows}], "validation_rows": 8},
            "train": settings | train,
            "compute": {"threads": 1} | (compute or {}),
            "watch": watch or {},
        }
    )


def weighted(folder: Path, compute: dict[str, Any] | None = None, **train: Any) -> Recipe:
    """A recipe whose rows are repeated by their source's weight."""
    settings = recipe(folder, compute=compute, **train).model_dump()
    settings["data"]["sources"][0]["weight"] = 1.2
    return Recipe.model_validate(settings)


def fetched_and_prepared(folder: Path, wanted: Recipe) -> Path:
    """`folder` with base and rows of `wanted`; the models are in it, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNELINE_MODELS", str(folder / "models"))
        fetch(wanted, folder / "prepared")
        prepare(wanted, folder / "prepared")
    return folder


def prepared(folder: Path) -> Path:
    """Prepared once for all recipes of `folder`."""
    run = folder / "prepared"
    return prepare(recipe(folder), run).path


def train(folder: Path, name: str, wanted: Recipe, *, base: Path = BASE, start: Path | None = None) -> dict[str, float]:
    """Into `folder/name/train`; what the stage would have as metrics."""
    run = folder / name
    (run / "train" / "scratch").mkdir(parents=True, exist_ok=True)
    return launch(TrainingJob(wanted, base, folder / "prepared/prepare", run / "train", run, start))


def events(folder: Path, name: str, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / name) if event["kind"] == kind]


def losses(folder: Path, name: str) -> list[float]:
    return [event["loss"] for event in events(folder, name, "metrics") if "loss" in event]
