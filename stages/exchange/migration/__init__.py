"""Configurations of other trainers into a recipe, with what could not be carried over."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_settings import run_name
from tuneline.configs.section import explain_first
from tuneline.configs.yaml_loader import read_yaml_lines
from tuneline.core.errors import BadRequest
from tuneline.core.files import write_atomic
from tuneline.core.user_files import read_json, read_text
from tuneline.stages.exchange.migration import axolotl, llama_factory, openai_job
from tuneline.stages.exchange.migration.settings import Migration

TRAINERS: dict[str, tuple[tuple[str, ...], Callable[[Migration], None]]] = {
    "Axolotl": (("base_model",), axolotl.migrate),
    "LLaMA-Factory": (("model_name_or_path", "train_dataset"), llama_factory.migrate),
    "OpenAI": (("training_file",), openai_job.migrate),
}
"""Keys by which a trainer's configuration is known, the first that fits, and its reader."""
ROWS = (".jsonl",)


def migrate(file: Path, target: Path, base: str | None = None) -> Migration:
    """Write the recipe of another trainer's configuration to `target`; return what became of each key.

    Raises:
        BadRequest: no such file, no known configuration, a training that no recipe describes, or a recipe is there.
    """
    trainer, migration = read_configuration(file, base)
    if target.exists():
        raise BadRequest(f"{target}: exists already; name another with --to")
    TRAINERS[trainer][1](migration)
    named = base or migration.recipe["base"]
    if not isinstance(named, str):
        raise BadRequest(f"{file}: base: {named!r}: not a model's name; name it with --base")
    folder = None if base else migration.find_beside(named)
    migration.recipe["base"] = str(folder.absolute()) if folder and folder.is_dir() else named
    check(migration)
    text = yaml.safe_dump(_ordered(_relative(migration.recipe, target.parent)), sort_keys=False, allow_unicode=True)
    header = f"# Migrated from {trainer}'s {file.name}. `tuneline plan` says what it takes.\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, header + text)
    return migration


def read_configuration(file: Path, base: str | None) -> tuple[str, Migration]:
    """Return the trainer whose configuration a file is, and the migration to fill.

    Raises:
        BadRequest: no such file, not YAML or JSON, or no known configuration.
    """
    values, lines = _read(file)
    trainer = next((name for name, (keys, _) in TRAINERS.items() if any(key in values for key in keys)), None)
    if trainer is None:
        known = "; ".join(f"{name}: {' or '.join(keys)}" for name, (keys, _) in TRAINERS.items())
        raise BadRequest(f"{file}: not a training's configuration that is known; looked for these keys: {known}")
    if trainer == "OpenAI" and not base:
        raise BadRequest(f"{file}: its model is OpenAI's; name the base to train with --base (`tuneline models ls`)")
    return trainer, Migration(file, values, lines, {"name": run_name(file)})


def _read(file: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the values of a configuration, and the line of each of its keys."""
    if file.suffix in ROWS:
        return {"training_file": file.name}, {}
    if file.suffix != ".json":
        values, lines = read_yaml_lines(file, BadRequest)
    else:
        values, text = read_json(file, BadRequest), read_text(file, BadRequest).splitlines()
        keys = ((line, re.match(r'\s*"([^"]+)"\s*:', line)) for line in text)
        lines = {match[1]: number for number, (_, match) in enumerate(keys, 1) if match}
    if not isinstance(values, dict):
        raise BadRequest(f"{file}: a configuration is a mapping of keys; this is {type(values).__name__}")
    return {str(key): value for key, value in values.items()}, lines


def check(migration: Migration) -> None:
    """Raise BadRequest if the recipe would be refused; its key is named."""
    try:
        Recipe.model_validate(migration.recipe)
    except ValidationError as error:
        raise BadRequest(f"{migration.file}: makes no recipe: {explain_first(error)}") from None


def _ordered(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the sections in the order of the schema."""
    return {name: recipe[name] for name in Recipe.model_fields if name in recipe}


def _relative(value: Any, folder: Path) -> Any:
    """Return the recipe with paths below `folder` relative to it, as a recipe's paths are."""
    root = f"{folder.absolute()}{os.sep}"
    if isinstance(value, str):
        return value.removeprefix(root)
    if isinstance(value, dict):
        return {key: _relative(item, folder) for key, item in value.items()}
    return [_relative(item, folder) for item in value] if isinstance(value, list) else value
