"""What can be known of a recipe before anything is trained: what would fail after the training, and what it lacks."""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.configs.hosts import refuse_unpublishable
from tuneline.configs.recipe import Recipe, recipe_of
from tuneline.core import paths
from tuneline.core.errors import BadRecipe, NotFound, TunelineError
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.run_context import RunContext
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.fetch.bases import locate_base
from tuneline.stages.prepare.checks.style_passages import asks_for_styles
from tuneline.stages.prepare.checks.test_questions import TestQuestion

EQUAL_SETTINGS = ("rank", "alpha", "targets", "modules_to_save")
"""Settings of `train` in which a recipe must equal the run that its adapter starts from."""
NAMES_SHOWN = 8


def refuse_early(recipe: Recipe) -> None:
    """Check what would fail after the training: the adapter it starts from, suites that cannot be asked, and hosts.

    Raises:
        BadRecipe: the run of `train.init_from` has other settings, a suite cannot be asked, or a host in `publish` does
            not take the model.
        NotFound: there is no such run.
    """
    if recipe.train.init_from:
        _refuse_other_start(recipe, paths.run_folder(recipe.train.init_from))
    refuse_unpublishable(recipe)
    refuse_unaskable_suites(recipe)


def refuse_unaskable_suites(recipe: Recipe) -> None:
    """Make the items of every suite that needs no prepared run.

    Raises:
        BadRecipe: a grammar makes too few requests, a logged chat has errors, a tool is not in the catalogue, or the
            like.
    """
    catalogue = _load_catalogue(recipe)
    for suite, items in _make_all_items(recipe):
        if catalogue:
            _refuse_unknown_tools(suite, items, catalogue)


def _refuse_unknown_tools(suite: str, items: Sequence[Item], catalogue: Catalogue) -> None:
    """Raise BadRecipe if a suite demands a call of a tool that the model is not shown."""
    of_catalogue = (item for item in items if item.shown_tools is None)
    for name in {str(call["name"]): None for item in of_catalogue for call in item.expected_calls}:
        if name not in catalogue.names:
            close = difflib.get_close_matches(name, catalogue.names, 1, 0.6)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(catalogue.names[:NAMES_SHOWN])}"
            raise BadRecipe(f"evaluate.suites: {suite}: call: {name!r} is not in the catalogue (data.tools); {hint}")


def find_shortcomings(recipe: Recipe, steps: int | None = None) -> Iterator[str]:
    """Yield what will be missed however well the model is trained, each as a text.

    That is a base that cannot be fetched yet, a learning rate that so many steps do not reach, and what the gate asks.
    """
    try:
        locate_base(recipe)
    except TunelineError as error:
        yield f"`tuneline fetch` will refuse this recipe: {error}"
    if steps is not None and (short_warmup := recipe.train.describe_short_warmup(steps)):
        yield short_warmup
    gate, catalogue = recipe.evaluate.gate, _load_catalogue(recipe)
    if gate is not None and not recipe.evaluate.suites:
        yield "evaluate.gate: there is no suite; see docs/suites.md"
    if gate is not None and gate.whole_catalogue and catalogue and recipe.evaluate.suites:
        asked = {call["name"] for _, items in _make_all_items(recipe) for item in items for call in item.expected_calls}
        if missing := [name for name in catalogue.names if name not in asked]:
            more = f" and {len(missing) - NAMES_SHOWN} more" if len(missing) > NAMES_SHOWN else ""
            yield (
                f"evaluate.suites: {len(missing)} of {len(catalogue.names)} tools are not covered by any suite, so "
                f"the gate cannot pass: {', '.join(missing[:NAMES_SHOWN])}{more}"
            )
    yield from _find_unreachable_floors(recipe)
    if asks_for_styles(recipe.evaluate) and not any(source.style for source in recipe.data.sources):
        yield "evaluate.suites: style: a suite requests styles, but no source has one (data.sources: style)"


def _find_unreachable_floors(recipe: Recipe) -> Iterator[str]:
    """Yield the floors whose suite has too few items: not even with every answer right does the bound reach them."""
    suites = {suite.name: suite for suite in recipe.evaluate.suites if suite.floor is not None}
    if not suites:
        return
    from tuneline.stages.evaluate import statistics

    for name, items in _make_all_items(recipe):
        if name in suites and (floor := suites[name].floor) is not None:
            by_phrasing = suites[name].independent == "phrasings"
            clusters = [item.phrasing if by_phrasing else str(number) for number, item in enumerate(items)]
            bound = statistics.lower_bound([True] * len(items), clusters, recipe.evaluate.confidence)
            if bound < floor:
                yield (
                    f"evaluate.suites: {name}: {len(items)} items cannot prove a floor of {floor:g}: if all are right, "
                    f"the lower bound is {bound:.2f}; add items, or lower the floor"
                )


def list_test_questions(recipe: Recipe) -> Iterator[TestQuestion]:
    """Yield the requests of all suites but those that need a prepared run."""
    for suite, items in _make_all_items(recipe):
        for item in items:
            yield TestQuestion(item.text, f"suite {suite}")


def _make_all_items(recipe: Recipe) -> Iterator[tuple[str, tuple[Item, ...]]]:
    """Yield the name and the items of each suite but those that need a prepared run."""
    run_context = RunContext(_load_catalogue(recipe), recipe.serve.context)
    for suite in recipe.evaluate.suites:
        if not (suite.styles or suite.lengths or suite.offered):
            yield suite.name, make_items(suite, run_context)


def _load_catalogue(recipe: Recipe) -> Catalogue | None:
    return load_catalogue(paths.resolve(recipe.data.tools)) if recipe.data.tools else None


def _refuse_other_start(recipe: Recipe, start: Path) -> None:
    try:
        other = recipe_of(start)
    except FileNotFoundError:
        raise NotFound(
            f"train.init_from: {start.name}: not in {start.parent}; `tuneline runs ls` shows the runs there are"
        ) from None
    pairs = {"base": (other.base, recipe.base)} | {
        f"train.{key}": (getattr(other.train, key), getattr(recipe.train, key)) for key in EQUAL_SETTINGS
    }
    for key, (theirs, ours) in pairs.items():
        if _sorted(theirs) != _sorted(ours):
            raise BadRecipe(
                f"train.init_from: {start.name}: its {key} is {theirs!r}, this recipe's {ours!r}; make them equal, or "
                "leave init_from out"
            )


def _sorted(value: object) -> object:
    return sorted(value) if isinstance(value, tuple) else value
