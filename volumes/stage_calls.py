"""A stage on Modal: fresh Volumes before, committed ones after and at every checkpoint.

Errors a retry cannot mend come back as values; only preemption and lost machines are left to Modal's retries.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from typing import Any, Literal, TypedDict

import modal

from tuneline.configs.recipe import Recipe
from tuneline.core import paths
from tuneline.core.errors import StageFailed, TunelineError
from tuneline.stages.line import in_subprocess
from tuneline.volumes import VOLUMES

CALL_HOURS = float(os.environ.get("TUNELINE_CALL_HOURS", "23"))
"""A call ends at 24 h (modal.com/docs/guide/timeouts): before that a stage checkpoints and the line calls it again."""


WORK = {"progress", "metrics", "checkpoint"}
"""Events that tell of something done; a stage that only starts must not be started for ever."""


class Outcome(TypedDict):
    """How a stage's call ended."""

    state: Literal["finished", "unfinished", "failed"]
    """unfinished: it ran out of its time, after a checkpoint; call it again."""
    kind: str
    """The error's class, of `tuneline.core.errors`; empty unless failed."""
    message: str


@contextlib.contextmanager
def working(reads: tuple[str, ...], writes: tuple[str, ...]) -> Iterator[None]:
    """Volumes as others left them; what is written is published when the block ends, however it ends."""
    for name in (*reads, *writes):
        VOLUMES[name].reload()
    try:
        yield
    finally:
        for name in writes:
            _commit(name)


def _commit(name: str) -> None:
    try:
        VOLUMES[name].commit()
    except modal.exception.Error as error:
        raise StageFailed(
            f"Volume tuneline-{name} took no more: {error}; free some (`modal volume rm -r tuneline-{name} …`) and run "
            "the same command again"
        ) from None


def work(stage: str, recipe_json: str, run: str, hours: float) -> Outcome:
    """Run one stage of a run in this container, for `hours` at most."""
    began, seconds = time.monotonic(), 3600 * min(hours, CALL_HOURS)
    recipe, told = Recipe.model_validate_json(recipe_json), set[str]()
    _keep_to(getattr(recipe.compute, stage).cores)
    try:
        _work(stage, recipe, run, seconds, told)
    except TunelineError as error:
        if isinstance(error, StageFailed) and time.monotonic() - began >= seconds:
            if told & WORK:
                return {"state": "unfinished", "kind": "", "message": str(error)}
            hours = getattr(recipe.compute, stage).hours
            error = StageFailed(
                f"{stage} did nothing but start in a call of {seconds / 3600:.3g} h, and another would do no more; "
                f"raise compute.{stage}.hours, now {hours:g}, and run the same command again"
            )
        return {"state": "failed", "kind": type(error).__name__, "message": str(error)}
    return {"state": "finished", "kind": "", "message": ""}


def _keep_to(cores: float) -> None:
    """As many threads as cores are paid for: a container sees all of its machine's, and is slowed when it uses more."""
    seen = sorted(os.sched_getaffinity(0))
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, seen[: max(1, math.ceil(cores))])


def _work(stage: str, recipe: Recipe, run: str, seconds: float, told: set[str]) -> None:
    from rich.console import Console

    from tuneline.core.progress import Progress

    written = ("models", "runs") if stage == "fetch" else ("runs",)
    reads = tuple(name for name in ("data", "models") if name not in written)
    with working(reads, written), Progress(Console()) as progress:

        def follow(event: dict[str, Any]) -> None:
            progress.event(event)
            told.add(event["kind"])
            if event["kind"] == "checkpoint":
                _commit("runs")

        price = getattr(recipe.compute, stage).usd_per_hour
        in_subprocess(recipe, paths.run_folder(run), follow, seconds, price)(stage)


def policy(verb: str, words: list[str]) -> Outcome:
    """A verb of `tuneline.endpoints.policy`, on the policy Volume."""
    from tuneline.endpoints.policy import VERBS

    with working(reads=("runs",), writes=("policy",)):
        try:
            return {"state": "finished", "kind": "", "message": VERBS[verb](*words)}
        except TunelineError as error:
            return {"state": "failed", "kind": type(error).__name__, "message": str(error)}


def evaluate_promoted() -> None:
    """Score everything promoted, and write what came out."""
    from tuneline.endpoints.scheduled_evaluation import evaluate_all

    with working(reads=("data", "models", "policy", "runs"), writes=("scores",)):
        for score in evaluate_all():
            print(json.dumps(score), flush=True)
