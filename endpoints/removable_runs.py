"""Which runs may be removed, and what of all runs could go: nothing that serves, could serve again, or is in work."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tuneline.configs.gateway import Gateway, Target, read_gateway
from tuneline.configs.recipe import RECIPE, Recipe, recipe_of
from tuneline.core import artifacts, paths
from tuneline.core.artifacts import SCRATCH
from tuneline.core.errors import BadRecipe, BadRequest, Locked, NotFound
from tuneline.core.locks import find_holder
from tuneline.endpoints.promoting_folders import list_policy_folders
from tuneline.endpoints.promotion import Promotion, read_promotions
from tuneline.engines.llama_cpp.build import find_llama_cpp
from tuneline.stages.convert.scratch import find_local_scratch
from tuneline.stages.evaluate.targets import served_path
from tuneline.stages.runs.removal import Removable, list_removable, measure

WHY_SCRATCH = "its stage is finished"
WHY_MERGED = "the run is evaluated, and it serves another form"
WHY_QUANTIZATIONS = "the run is evaluated, and it serves another file"
WHY_LEFT = "left by a removal that was interrupted"
WHY_LOCAL = "no run here continues from it"
WHY_BUILD = "a build of llama.cpp that this version does not use"


def refuse_unremovable(run: Path) -> None:
    """Check that nothing of a run is in use.

    Raises:
        Locked: a process works on it. BadRequest: it serves a name, or would after a rollback, in any policy folder
            it was promoted in, or `gateway.yaml` names it. PermissionError: such a folder cannot be looked at.
    """
    if holder := find_holder(run):
        raise Locked(f"{run.name} is being written by {holder.text}; `tuneline runs cancel {run.name}` stops it")
    for policy in list_policy_folders(run):
        for name, promotion in read_promotions(policy).items():
            _refuse_promoted(run.name, name, promotion, policy)
    if where := _find_in_gateway(run.name, read_gateway()):
        raise BadRequest(f"{run.name}: configs/gateway.yaml names it in {where}; change that first")


def refuse_if_started_from(run: Path) -> None:
    """Check that no run here was trained from a run's adapter.

    Raises:
        BadRequest: one was; without it, nobody could tell whether it is still made from what it says.
    """
    for other in sorted(paths.runs().glob(f"*/{RECIPE}")):
        recipe = _read_recipe(other.parent)
        if recipe and recipe.train.init_from == run.name:
            raise BadRequest(f"{other.parent.name} was trained from {run.name}; remove that first")


def _refuse_promoted(run: str, name: str, promotion: Promotion, policy: Path) -> None:
    place = "" if policy == paths.policy() else f", promoted in {policy}"
    with_policy = f"TUNELINE_POLICY={shlex.quote(str(policy))} " if place else ""
    if promotion.current.run == run:
        raise BadRequest(
            f"{run} serves {name!r}{place}; `{with_policy}tuneline promote OTHER --as {name}` lets another run serve "
            "it first"
        )
    if run in _runs_before(promotion):
        raise BadRequest(
            f"{run} is what `{with_policy}tuneline rollback {name}` goes back to; `{with_policy}tuneline promote "
            f"{promotion.current.run} --as {name}` makes the run that serves now the one to go back to"
        )


def _runs_before(promotion: Promotion) -> list[str]:
    """Return the run that a rollback would go back to, in a list; none if there is none."""
    earlier = [version for version in promotion.versions if version.number < promotion.current.position]
    return [earlier[-1].run] if earlier else []


def _find_in_gateway(run: str, gateway: Gateway) -> str:
    """Return the key of `gateway.yaml` that names the run itself, or ""."""
    for name, route in gateway.models.items():
        for side in ("baseline", "candidate", "fallback"):
            target: Target | None = getattr(route, side)
            if target and run in (target.promoted, target.model):
                return f"models.{name}.{side}"
    return ""


def list_of_run_to_remove(run: Path, kinds: Sequence[str]) -> list[Removable]:
    """Return what there is of these kinds in a run, or the run itself if there are no kinds.

    Raises:
        Locked: a process works on it. BadRequest: it is in use, or, of a whole run, another was trained from it.
    """
    refuse_unremovable(run)
    if kinds:
        return list_removable(run, kinds)
    refuse_if_started_from(run)
    return [Removable(run, "run", measure(run))]


def list_garbage() -> list[Removable]:
    """Return what could go of all runs, and of what this machine can make again: each with the reason."""
    return [*list_garbage_of_runs(is_free), *_list_local_scratch(_list_runs()), *_list_builds()]


def list_garbage_of_runs(may_go: Callable[[Path], bool]) -> list[Removable]:
    """Return what could go of the runs whose folder `may_go` accepts, and what removals left, each with the reason."""
    garbage = [item for run in _list_runs() if may_go(run) for item in _list_of_run(run)]
    left = [Removable(path, "run", measure(path), WHY_LEFT) for path in sorted(paths.runs().glob(".removed-*"))]
    return [*garbage, *left]


def _list_runs() -> list[Path]:
    return [folder for folder in sorted(paths.runs().glob("[!.]*")) if (folder / RECIPE).exists()]


def is_free(run: Path) -> bool:
    """Return whether nothing of a run is in use."""
    try:
        refuse_unremovable(run)
    except (Locked, BadRequest, PermissionError):
        return False
    return True


def _list_of_run(run: Path) -> Iterator[Removable]:
    """Yield the unfinished work of finished stages, and, of an evaluated run, the weights that it does not serve."""
    for item in list_removable(run, ["checkpoints"]):
        if item.path.is_relative_to(run) and artifacts.is_finished(item.path.parent):
            yield _explain(item, WHY_SCRATCH)
    recipe = _read_recipe(run)
    if recipe is None or not artifacts.is_finished(run / "evaluate"):
        return
    served = run / served_path(recipe.serve)
    for item in list_removable(run, ["merged", "quantizations"]):
        if not served.is_relative_to(item.path) and item.path.stem != served.stem:  # its Modelfile stays, too
            yield _explain(item, WHY_MERGED if item.kind == "merged" else WHY_QUANTIZATIONS)


def _read_recipe(run: Path) -> Recipe | None:
    try:
        return recipe_of(run)
    except (BadRecipe, OSError):  # an older version's, or damaged: what it serves is not known
        return None


def _explain(item: Removable, why: str) -> Removable:
    return Removable(item.path, item.kind, item.bytes, why)


def _list_local_scratch(runs: list[Path]) -> Iterator[Removable]:
    """Yield the folders on the local disk for unfinished files that no run continues from."""
    if not (disk := paths.scratch()):
        return
    used = {find_local_scratch(records) for run in runs for records in run.glob(f"*/{SCRATCH}")}
    for folder in sorted(disk.glob("[0-9a-f]" * 32)):
        if folder not in used:
            yield Removable(folder, "scratch", measure(folder), WHY_LOCAL)


def _list_builds() -> Iterator[Removable]:
    """Yield builds of llama.cpp beside the one in use; paid answers and environments in the cache are left alone."""
    try:
        used = find_llama_cpp().server.resolve()
    except NotFound:  # which one would be used is not known
        return
    for folder in sorted(paths.cache().glob("llama.cpp-*")):
        if not used.is_relative_to(folder.resolve()):
            yield Removable(folder, "cache", measure(folder), WHY_BUILD)
