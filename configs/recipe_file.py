"""A recipe's YAML file: read, checked, and each mistake explained with its key."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tuneline.configs.data import Measure
from tuneline.configs.recipe import Recipe
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import NAME, find


def load_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file, called after the file unless it has a name.

    Raises:
        BadRecipe: not there, not YAML, an unknown key, a wrong value, or a file it names is missing.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise BadRecipe(f"{path}: no such recipe; `ls configs/recipes` shows those that come with Tuneline") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRecipe(f"{path}: not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise BadRecipe(f"{path}: a recipe is a mapping of keys; this is {type(raw).__name__}")
    try:
        recipe = Recipe.model_validate({"name": path.stem} | raw)
    except ValidationError as error:
        causes = [e for e in error.errors() if e["type"] != "too_short"]  # as a list also is whose items are wrong
        raise BadRecipe("\n".join(_explain(path, e) for e in causes or error.errors())) from None
    if not NAME.fullmatch(recipe.name):
        raise BadRecipe(f"{path}: name: {recipe.name!r}: letters, digits, '.', '_' and '-' only, 64 at most")
    for key, file in _files(recipe):
        if not find(file).exists() or (find(file).is_dir() and not key.endswith(("].path", ".include"))):
            raise BadRecipe(f"{path}: {key}: {file}: no such file")
    return _named(recipe)


def _named(recipe: Recipe) -> Recipe:
    """A name of models.yaml as the hub id and commit it stands for, so that nothing else has to know the table.

    Without a commit, the one that this machine has verified and pinned.
    """
    from tuneline.configs.models import UNVERIFIED, registry

    if recipe.base == "tiny" or find(Path(recipe.base)).is_dir():
        return recipe
    base, revision = recipe.base, recipe.revision
    if key := registry().find(base):
        model = registry().models[key]
        base = model.hub or key
        revision = revision or (None if model.revision == UNVERIFIED else model.revision)
    if revision is None and "/" in base:
        from tuneline.core.pins import pin_of

        revision = pin_of(base)
    return recipe.model_copy(update={"base": base, "revision": revision})


def replace_paths(recipe: Recipe, moved: Callable[[Path], Path]) -> Recipe:
    """The recipe with `moved(path)` for each file it names; fingerprints hash contents, so they stay the same."""

    def replaced(value: Any) -> Any:
        if isinstance(value, Path):
            return moved(value)
        if isinstance(value, BaseModel):
            return value.model_copy(update={name: replaced(getattr(value, name)) for name in type(value).model_fields})
        return tuple(replaced(item) for item in value) if isinstance(value, tuple) else value

    changed: Recipe = replaced(recipe)
    return changed


def _files(value: Any, key: str = "") -> list[tuple[str, Path]]:
    if isinstance(value, Path):
        return [(key, value)]
    if isinstance(value, BaseModel):
        children = [(f"{key}.{name}" if key else name, getattr(value, name)) for name in type(value).model_fields]
    elif isinstance(value, tuple):
        children = [(f"{key}[{i}]", item) for i, item in enumerate(value)]
    else:
        return []
    return [found for name, child in children for found in _files(child, name)]


def _explain(path: Path, error: Any) -> str:
    measure = error["loc"][-1:] == ("[key]",)
    location = error["loc"][:-1] if measure else error["loc"]
    key = ".".join(str(part) for part in location) or "recipe"
    if error["type"] == "extra_forbidden" or measure:
        known = list(get_args(Measure)) if measure else _keys_of(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, 1, 0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"{path}: {key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{path}: {key}: required"
    message = error["msg"].removeprefix("Value error, ")
    return f"{path}: {key}: {error['input']!r}: {message}" if _is_plain(error["input"]) else f"{path}: {key}: {message}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | None)


def _keys_of(location: tuple[str | int, ...]) -> list[str]:
    section: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
            section = next(a for a in inner if issubclass(a, BaseModel))
    return list(section.model_fields)
