"""A recipe's YAML file: loading, checking, and the explanation of each mistake by its key."""

import difflib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tuneline.configs.data import Measure
from tuneline.configs.known_keys import explain_foreign_key
from tuneline.configs.models import UNVERIFIED, registry
from tuneline.configs.recipe import RECIPE, Recipe
from tuneline.configs.recipe_settings import Override, apply_overrides, parse_override, read_settings
from tuneline.configs.section import is_plain, join_key, shorten
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import NAME, resolve
from tuneline.core.pins import read_pin

ERRORS_SHOWN = 20
"""Of a recipe; a file that is no recipe at all has thousands."""


def load_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a YAML file, with `settings` (`KEY=VALUE`) on top of it. Its name is the file's by default.

    Raises:
        BadRecipe: no such file, not YAML, an unknown key, a wrong value, or a file that it names is missing.
        BadRequest: a setting is not `KEY=VALUE`.
    """
    overrides = [parse_override(setting) for setting in settings]
    recipe = _validate(read_settings(path, overrides), path, overrides)
    if not NAME.fullmatch(recipe.name):
        raise BadRecipe(f"{path}: name: {recipe.name!r}: letters, digits, '.', '_' and '-' only, 64 at most")
    for key, file in _list_paths(recipe):
        if not (
            resolve(file).is_file()
            or (resolve(file).is_dir() and key.endswith(("].path", ".validation.path", ".include")))
        ):
            folders = f"{path.parent.absolute()}, the current folder and Tuneline's own"
            raise BadRecipe(f"{path}: {key}: {file}: no such file in {folders}")
    return resolve_base(recipe)


def override_recipe(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return a recipe with `settings` (`KEY=VALUE`) on top of it.

    Raises:
        BadRecipe: a setting's key or value is wrong. BadRequest: it is not `KEY=VALUE`.
    """
    overrides = [parse_override(setting) for setting in settings]
    return _validate(apply_overrides(json.loads(recipe.to_json()), overrides), Path(RECIPE), overrides)


def _validate(settings: dict[str, Any], path: Path, overrides: Sequence[Override]) -> Recipe:
    """Return the recipe of `settings`, which come from `path` and from `overrides`."""
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        # pydantic also calls a list too short whose items are wrong.
        causes = [e for e in error.errors() if e["type"] != "too_short"]
        lines = [_explain_error(_origin(path, e, overrides), e) for e in (causes or error.errors())[:ERRORS_SHOWN]]
        more = [f"… and {len(causes) - ERRORS_SHOWN} more"] if len(causes) > ERRORS_SHOWN else []
        raise BadRecipe("\n".join([*lines, *more])) from None


def _origin(path: Path, error: Any, overrides: Sequence[Override]) -> str:
    """Return where a wrong value comes from: the recipe's file, or the setting of the command line."""
    location = error["loc"]
    setting = next((override for override in overrides if location[: len(override.key)] == override.key), None)
    return f"--set {setting.text}" if setting else str(path)


def resolve_base(recipe: Recipe) -> Recipe:
    """Replace a name of models.yaml by its hub id and commit, so that nothing else has to look it up.

    If neither the recipe nor the table states a commit, it is the one pinned on this machine, if any. It is resolved
    here, once: a run's recipe.json, its adapter and its model card state the commit.
    """
    if recipe.base == "tiny" or resolve(Path(recipe.base)).is_dir():
        return recipe
    base, revision = recipe.base, recipe.revision
    if key := registry().find(base):
        model = registry().models[key]
        base = model.hub or key
        revision = revision or (None if model.revision == UNVERIFIED else model.revision)
    if revision is None and "/" in base:
        revision = read_pin(base)
    return recipe.model_copy(update={"base": base, "revision": revision})


def replace_paths(recipe: Recipe, new_path: Callable[[Path], Path]) -> Recipe:
    """Return the recipe with `new_path(path)` for each path in it; its fingerprints stay the same."""

    def replace(value: Any) -> Any:
        if isinstance(value, Path):
            return new_path(value)
        if isinstance(value, BaseModel):
            return value.model_copy(update={name: replace(getattr(value, name)) for name in type(value).model_fields})
        return tuple(replace(item) for item in value) if isinstance(value, tuple) else value

    replaced: Recipe = replace(recipe)
    return replaced


def _list_paths(value: Any, key: str = "") -> list[tuple[str, Path]]:
    """Return (key, path) for every path in a section; `data.sources[0].path` is a key."""
    if isinstance(value, Path):
        return [(key, value)]
    if isinstance(value, BaseModel):
        children = [(f"{key}.{name}" if key else name, getattr(value, name)) for name in type(value).model_fields]
    elif isinstance(value, tuple):
        children = [(f"{key}[{i}]", item) for i, item in enumerate(value)]
    else:
        return []
    return [entry for name, child in children for entry in _list_paths(child, name)]


def _explain_error(origin: str, error: Any) -> str:
    """Return one line for one of pydantic's errors: origin, key, value, what is wrong, and the nearest known key."""
    is_measure = error["loc"][-1:] == ("[key]",)
    location = error["loc"][:-1] if is_measure else error["loc"]
    key = join_key(location) or "recipe"
    if error["type"] == "extra_forbidden" or is_measure:
        keys = list(get_args(Measure)) if is_measure else _keys_of(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), keys, 1, 0.6)
        foreign = None if is_measure else explain_foreign_key(str(location[-1]))
        hint = foreign or (f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(keys)}")
        return f"{origin}: {key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{origin}: {key}: required"
    message = error["msg"].removeprefix("Value error, ")
    value = error["input"]
    return f"{origin}: {key}: {shorten(value)}: {message}" if is_plain(value) else f"{origin}: {key}: {message}"


def _keys_of(location: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the section at a location in the recipe, as pydantic's errors give it."""
    section: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
            section = next(a for a in inner if issubclass(a, BaseModel))
    return list(section.model_fields)
