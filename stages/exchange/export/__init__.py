"""A recipe as another trainer's configuration and data: the same rows that `prepare` makes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from tuneline.configs.recipe import Recipe
from tuneline.core.errors import BadRequest
from tuneline.core.files import write_atomic
from tuneline.stages.exchange.export import axolotl, hosted, llama_factory, unsloth
from tuneline.stages.exchange.export.plan import Export, ExportPlan
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.run_artifacts import open_stage

TRAINERS: Mapping[str, Callable[[ExportPlan], Export]] = {
    "axolotl": axolotl.export,
    "llamafactory": llama_factory.export,
    "unsloth": unsloth.export,
    "openai": hosted.export_openai,
    "together": hosted.export_together,
}
"""By the name that `tuneline export --to` takes."""


def refuse_unexportable(recipe: Recipe, trainer: str, model: str | None) -> None:
    """Refuse what is known before anything runs.

    Raises:
        BadRequest: no such trainer, or a hosted one whose own name of a model is missing.
    """
    if trainer not in TRAINERS:
        raise BadRequest(f"--to {trainer}: unknown; known: {', '.join(TRAINERS)}")
    if trainer == "openai" and not model:
        raise BadRequest("--to openai: OpenAI trains its own models: name one, as in --model gpt-4.1-mini-2025-04-14")
    if trainer == "together" and not model and not recipe.revision:
        raise BadRequest(f"--to together: {recipe.base} is not on the hub: name one of Together's models with --model")


def export_run(recipe: Recipe, run: Path, trainer: str, folder: Path, model: str | None = None) -> Export:
    """Write the files of `trainer` for a prepared run to the new folder `folder`; return what was written and lost.

    Raises:
        BadRequest: unknown trainer, the folder has files, or a setting that the trainer has no words for.
        NotFound: the run is not prepared.
    """
    refuse_unexportable(recipe, trainer, model)
    refuse_used(folder)
    base, prepared = open_base(recipe), open_stage(run, "prepare")
    export = TRAINERS[trainer](ExportPlan(recipe, base.path, prepared, folder.absolute(), model))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in export.files.items():
        write_atomic(folder / name, _format(name, content))
    return export


def refuse_used(folder: Path) -> None:
    """Raise BadRequest if there is something at `folder` that would be mixed with what is written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadRequest(f"{folder}: is not an empty folder; name another with --out")


def _format(name: str, content: object) -> str:
    if isinstance(content, str):
        return content
    if name.endswith(".jsonl"):
        assert isinstance(content, list)
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    if name.endswith(".json"):
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return text
