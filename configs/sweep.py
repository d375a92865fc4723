"""A sweep: the runs of one recipe with every combination of several values of its settings."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadRequest
from tuneline.core.paths import NAME

MAX_RUNS = 64
_OPENING, _CLOSING = "[{(", ")}]"


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep."""

    name: str
    """The recipe's name, then each varied setting with its value: `demo-rank-8`."""
    settings: tuple[str, ...]
    """The varied settings, as `KEY=VALUE`."""
    recipe: Recipe


def expand_sweep(recipe_file: Path, settings: Sequence[str], name: str | None = None) -> list[SweepRun]:
    """Return the runs for settings such as `train.rank=8,16,32`, the last setting varying fastest.

    A setting of one value holds for all runs. `name` replaces the recipe's at the beginning of the runs' names.

    Raises:
        BadRequest: no setting has several values, there are too many runs, or a name would be too long.
        BadRecipe: a recipe is wrong with one of the combinations.
    """
    choices = [[(key, value) for value in values] for key, values in map(_split_setting, settings)]
    varied = [number for number, choice in enumerate(choices) if len(choice) > 1]
    if not varied:
        raise BadRequest("sweep: give a setting several values, as in --set train.rank=8,16,32")
    combinations = list(itertools.product(*choices))
    if len(combinations) > MAX_RUNS:
        raise BadRequest(f"sweep: {len(combinations)} runs, {MAX_RUNS} at most; give fewer values")
    runs = []
    for combination in combinations:
        recipe = load_recipe(recipe_file, [f"{key}={value}" for key, value in combination])
        chosen = [combination[number] for number in varied]
        run = "-".join([name or recipe.name, *(f"{_last_part(key)}-{_slug(value)}" for key, value in chosen)])
        if not NAME.fullmatch(run):
            raise BadRequest(f"sweep: {run!r} is not a valid run name; give a shorter one with --run NAME")
        settings_of_run = tuple(f"{key}={value}" for key, value in chosen)
        runs.append(SweepRun(run, settings_of_run, recipe.model_copy(update={"name": run})))
    names = [run.name for run in runs]
    if repeated := [run for run in names if names.count(run) > 1]:
        raise BadRequest(f"sweep: two runs would be called {repeated[0]!r}; remove one of the values")
    return runs


def _split_setting(setting: str) -> tuple[str, list[str]]:
    key, equals, values = setting.partition("=")
    if not equals or not key.strip():
        raise BadRequest(f"--set {setting}: write KEY=VALUE,VALUE, as in --set train.rank=8,16,32")
    return key.strip(), _split_values(values)


def _split_values(text: str) -> list[str]:
    """Return the values between commas; commas inside brackets do not count."""
    values, depth = [""], 0
    for character in text:
        depth += (character in _OPENING) - (character in _CLOSING)
        if character == "," and not depth:
            values.append("")
        else:
            values[-1] += character
    return [value.strip() for value in values]


def _last_part(key: str) -> str:
    return _slug(re.split(r"[.\[\]]+", key.rstrip("]"))[-1])


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-") or "none"
