"""What `tuneline publish` does: checks, a dry run, publishing, and taking back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuneline.configs.hosts import find_host, find_obstacles
from tuneline.configs.publish import Publish
from tuneline.configs.recipe import recipe_of
from tuneline.configs.recipe_file import override_recipe
from tuneline.core.artifacts import is_finished
from tuneline.core.errors import BadRecipe, BadRequest, StaleArtifact
from tuneline.publish import execution
from tuneline.publish.record import TargetRecord, read_published
from tuneline.publish.target import Publication, Step
from tuneline.publish.targets import find_target
from tuneline.stages.evaluate.verdicts.gate import NO_DEMANDS, gate_of_run, name_outcome
from tuneline.stages.evaluate.verdicts.reason import PASS
from tuneline.stages.run_artifacts import open_stage


def open_publication(run: Path, target: str, settings: Sequence[str] = (), *, undo: bool = False) -> Publication:
    """Return a run that goes to `target`, with `publish.KEY=VALUE` settings on top of its recipe.

    To take it back (`undo`), the settings are those that it was published with.

    Raises:
        BadRequest: no such target, or a setting of another section. BadRecipe: a setting is wrong.
    """
    find_target(target)
    if other := next((text for text in settings if not text.startswith("publish.")), None):
        raise BadRequest(f"--set {other}: only settings of `publish` can be changed once a run is made")
    recipe = override_recipe(recipe_of(run), settings)
    record = read_published(run).targets.get(target) if undo else None
    section = _validate({target: record.settings}, target) if record and record.settings else None
    section = section or getattr(recipe.publish, target) or _validate({target: {}}, target)
    recipe = recipe.model_copy(update={"publish": recipe.publish.model_copy(update={target: section})})
    return Publication(run, recipe, target, section, find_host(target))


def plan_steps(publication: Publication, *, undo: bool = False) -> Sequence[Step]:
    """Return what would be requested and written, without doing any of it.

    Raises:
        As `publish_run`, but for what only a host can say.
    """
    target = find_target(publication.target)
    if undo:
        return target.undo_steps(
            publication, execution.find_published(publication, read_published(publication.run)).values
        )
    refuse_obstacles(publication)
    return target.steps(publication)


def explain_cost(publication: Publication) -> str:
    """Return what publishing costs at most, or an empty text if it starts nothing that is paid for."""
    cost = getattr(find_target(publication.target), "cost", None)
    return str(cost(publication)) if cost else ""


def refuse_obstacles(publication: Publication) -> None:
    """Raise BadRecipe if the target's host does not take the run's model; each broken rule is a line."""
    if obstacles := list(find_obstacles(publication.recipe, publication.target)):
        raise BadRecipe("\n".join(obstacles))


def publish_run(publication: Publication, say: execution.Say, *, may_spend: bool = False) -> TargetRecord:
    """Publish a run, or continue; return its record.

    Raises:
        BadRecipe: the host does not take it. BadRequest: it costs money, and `may_spend` is not set; a key is missing.
        As `execution.publish`.
    """
    refuse_obstacles(publication)
    if (cost := explain_cost(publication)) and not may_spend:
        raise BadRequest(f"{publication.host.title}: {cost}; add --yes to go ahead")
    if note := _describe_gate(publication.run):
        say(note)
    return execution.publish(publication, find_target(publication.target), say)


def withdraw_run(publication: Publication, say: execution.Say) -> None:
    """Take back what was published.

    Raises:
        As `execution.withdraw`.
    """
    execution.withdraw(publication, find_target(publication.target), say)


def _describe_gate(run: Path) -> str:
    """Return a warning if nothing shows that the run is better than what there was; empty if its gate passed."""
    if not is_finished(run / "evaluate"):
        return f"{run.name}: is not evaluated; nothing says how good it is"
    try:
        evaluated = open_stage(run, "evaluate").metrics.get("gate")
    except StaleArtifact:
        return f"{run.name}: its evaluation is of other files than are there now; nothing says how good these are"
    outcome = name_outcome(gate_of_run(run, evaluated)) if evaluated else NO_DEMANDS
    if outcome == PASS:
        return ""
    return f"{run.name}: its gate has not passed ({outcome}); `tuneline promote` would refuse it, publishing does not"


def _validate(publish: dict[str, Any], target: str) -> object:
    """Return the target's section of these settings.

    Raises:
        BadRecipe: it lacks a setting that has no default.
    """
    try:
        return getattr(Publish.model_validate(publish), target)
    except ValidationError as error:
        missing = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise BadRecipe(f"publish.{missing}: required: `--set publish.{missing}=…`; docs/publish.md") from None
