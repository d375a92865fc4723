"""The settings of a recipe before they are checked: its YAML file, the files it extends, and `--set` on top."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.user_paths import locate_texts
from tuneline.configs.yaml_loader import parse_yaml, read_yaml
from tuneline.core.errors import BadRecipe, BadRequest
from tuneline.core.paths import ROOT, resolve

EXTENDS = "extends"
SHIPPED = Path("configs/recipes")
"""Folder of the recipes that come with Tuneline, as a user names it."""
MAX_EXTENDED = 8
"""Recipes that extend one another."""


@dataclass(frozen=True)
class Override:
    """A setting given on the command line."""

    text: str
    """As it was typed: `train.learning_rate=1e-4`."""
    key: tuple[str | int, ...]
    """As pydantic gives the place of an error: numbers are indexes of lists."""
    value: Any


def parse_override(text: str) -> Override:
    """Return a setting typed as `KEY=VALUE`; the value is YAML, and a path in it starts from the current folder.

    Raises:
        BadRequest: it has no `=` or no key. BadRecipe: the value is not YAML.
    """
    name, equals, value = text.partition("=")
    parts = [part for part in re.split(r"[.\[\]]+", name.strip()) if part]
    if not equals or not parts:
        raise BadRequest(f"--set {text}: write KEY=VALUE, as in --set train.learning_rate=1e-4")
    key = tuple(int(part) if part.isdecimal() else part for part in parts)
    return Override(text, key, locate_texts(parse_yaml(value, Path(f"--set {name}"), BadRecipe), Path.cwd()))


def read_settings(path: Path, overrides: Sequence[Override] = ()) -> dict[str, Any]:
    """Return a recipe's settings: those of the file it extends, its own on top, then the overrides.

    Sections are merged key by key; lists are replaced as a whole. `name` is the file's unless it states one itself.

    Raises:
        BadRecipe: no such file, not YAML, not a mapping, or `extends` leads back. BadRequest: no such place in a list.
    """
    file = path if path.exists() else resolve(path)  # those that Tuneline ships, from any folder
    return apply_overrides({"name": run_name(path), **_read_file(file if file.is_file() else path)}, overrides)


def apply_overrides(settings: dict[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """Return `settings`, changed in place, with the overrides on top.

    Raises:
        BadRequest: no such place in a list.
    """
    for override in overrides:
        _apply(settings, override)
    return settings


def run_name(path: Path) -> str:
    """Return the name of a recipe's runs made of its file's name: spaces and the like become `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")


def _read_file(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the settings of a file and of what it extends; `extending` are the files that lead to it."""
    if path.is_dir() or not path.exists():
        where = f"{extending[-1]}: {EXTENDS}: " if extending else ""
        shipped = SHIPPED / path.name
        listed = f"`ls {SHIPPED}` lists those that come with Tuneline"
        hint = f"did you mean {shipped}?" if (ROOT / shipped).is_file() else listed
        raise BadRecipe(f"{where}{path}: no such recipe; {hint}")
    if path.resolve() in extending or len(extending) > MAX_EXTENDED:
        names = " → ".join(file.name for file in (*extending, path))
        raise BadRecipe(f"{path}: {EXTENDS}: {names}: circular, or too many levels")
    raw = read_yaml(path, BadRecipe)
    if not isinstance(raw, dict):
        raise BadRecipe(f"{path}: a recipe is a mapping of keys; this is {type(raw).__name__}")
    settings = locate_texts(raw, path.parent.absolute())
    if (extended := settings.pop(EXTENDS, None)) is None:
        return dict(settings)
    if not isinstance(extended, str):
        raise BadRecipe(f"{path}: {EXTENDS}: the name of a recipe; this is {type(extended).__name__}")
    below = _read_file(_find_recipe(path.parent, extended), (*extending, path.resolve()))
    below.pop("name", None)
    return _merge(below, settings)


def _find_recipe(folder: Path, name: str) -> Path:
    """Return the recipe that is extended: a file beside the one that names it, else one that Tuneline ships."""
    file = folder / Path(name).expanduser()
    shipped = ROOT / name
    return shipped if not file.exists() and shipped.is_file() else file


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above`, mapping by mapping."""
    both = {
        key: _merge(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return below | above | both


def _apply(settings: dict[str, Any], override: Override) -> None:
    """Set one value in place, making the sections that lead to it."""
    place: Any = settings
    *sections, last = override.key
    for part in sections:
        if isinstance(place, dict):
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
        else:
            place = _item(place, part, override)
    if isinstance(place, dict):
        place[last] = override.value
    else:
        _item(place, last, override)
        place[last] = override.value


def _item(place: Any, index: str | int, override: Override) -> Any:
    if not isinstance(place, list) or not isinstance(index, int):
        raise BadRequest(f"--set {override.text}: {index} is not in a section or a list of the recipe")
    if index >= len(place):
        raise BadRequest(f"--set {override.text}: there is no [{index}]; the list has {len(place)}, from [0] on")
    return place[index]
