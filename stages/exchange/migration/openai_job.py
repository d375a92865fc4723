"""OpenAI's fine-tuning job, as its API takes it, into a recipe."""

from pathlib import Path
from typing import Any

from tuneline.configs.recipe_settings import run_name
from tuneline.core.errors import BadRequest
from tuneline.stages.exchange.migration.settings import Migration

HYPERPARAMETERS = {"n_epochs": "train.epochs", "batch_size": "train.batch_rows"}
UNNEEDED = {"integrations": "W&B is used if WANDB_API_KEY is set", "metadata": "not part of a training"}


def migrate(migration: Migration) -> None:
    """Fill the migration's recipe from a job; its base is named by the caller.

    Raises:
        BadRequest: the job trains on preferences or rewards, or its training file is not here.
    """
    method = migration.get("method") or {}
    if not isinstance(method, dict) or method.get("type", "supervised") != "supervised":
        kind = method.get("type") if isinstance(method, dict) else method
        raise BadRequest(f"{migration.file}: method: {kind}: a recipe describes supervised training")
    settings = migration.get("hyperparameters") or (method.get("supervised") or {}).get("hyperparameters") or {}
    _carry_hyperparameters(migration, settings if isinstance(settings, dict) else {})
    if method:
        migration.skip("method", "supervised")
    if migration.get("model"):
        migration.lose("model", "a model of OpenAI's; the recipe's base is what you named with --base")
    if suffix := migration.get("suffix"):
        migration.carry("suffix", "name", run_name(Path(f"{suffix}.json")) or "openai")
    if (seed := migration.get("seed")) is not None:
        migration.carry("seed", "train.seed", seed)
    migration.carry("training_file", "data.sources", [_to_source(migration, "training_file")])
    if migration.get("validation_file"):
        migration.carry("validation_file", "data.validation", _to_source(migration, "validation_file"))
    migration.finish(UNNEEDED)


def _carry_hyperparameters(migration: Migration, settings: dict[str, Any]) -> None:
    key = "hyperparameters" if migration.get("hyperparameters") else "method"
    for name, setting in HYPERPARAMETERS.items():
        if isinstance(value := settings.get(name), int | float):
            migration.carry(key, setting, value)
    if settings.get("learning_rate_multiplier") not in (None, "auto"):
        multiplier = settings["learning_rate_multiplier"]
        migration.lose(key, f"learning_rate_multiplier: {multiplier}: of a rate that is OpenAI's own")


def _to_source(migration: Migration, key: str) -> dict[str, Any]:
    place = str(migration.get(key, ""))
    file = migration.find_beside(place)
    if not place or file is None or not file.is_file():
        raise BadRequest(
            f"{migration.file}:{migration.lines.get(key, 1)}: {key}: {place}: no such file beside it; download it from "
            "OpenAI, and write its name here in place of the id"
        )
    return {"path": str(file.absolute()), "format": "messages"}
