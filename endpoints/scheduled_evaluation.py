"""The scheduled evaluation: every promoted model is evaluated again, with a notification if it got worse.

Scores are in `<scores>/NAME/DATE.json`, outside the runs: a finished artifact does not change.
"""

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import RECIPE, Recipe, recipe_of
from tuneline.core import paths
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import StageFailed, TunelineError
from tuneline.core.files import write_atomic
from tuneline.core.machine import describe_machine
from tuneline.core.modal_command import modal_command
from tuneline.core.notification import notify
from tuneline.endpoints.promotion import Promotion, Version, open_promoted_run, read_promotions
from tuneline.engines.vllm.vllm_server import find_vllm
from tuneline.stages.evaluate.answers import read_answers_of
from tuneline.stages.evaluate.clients.local_targets import ask_engine
from tuneline.stages.evaluate.clients.target_engines import Engines
from tuneline.stages.evaluate.engine_versions import describe_engine, format_engine
from tuneline.stages.evaluate.scoring.scoreboard import scoreboard_row
from tuneline.stages.evaluate.suites.run_context import open_run_context
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.evaluate.targets import REFERENCE, evaluated_target
from tuneline.stages.run_artifacts import open_stage

TOLERANCE = 0.02
"""A share that fell by more than this is a regression; engines and sampling alone cause smaller differences."""


def evaluate_all(publish: Callable[[], object] = lambda: None) -> list[dict[str, Any]]:
    """Evaluate every promoted model, write the scores, and notify about regressions and failed evaluations.

    `publish` is called before each model.
    """
    scores = []
    for name, promotion in read_promotions().items():
        publish()
        try:
            scores.append(evaluate_promotion(name, promotion))
        except TunelineError as error:
            failure = {"name": name, "run": promotion.current.run, "at": _now(), "error": str(error)}
            if not _score_file(name).exists():  # a score of today says more than that it could not be repeated
                _write_score(name, failure)
            scores.append({"name": name, "error": str(error)})
            notify(f"Tuneline: {name} could not be evaluated: {error}", name=name)
    return scores


def evaluate_promotion(name: str, promotion: Promotion) -> dict[str, Any]:
    """Return the score of one promoted model: shares by suite, what they are compared with, and the regressions.

    Raises:
        StageFailed: its engine does not run here, or its files are not those that were promoted.
    """
    version = promotion.current
    if version.form != "gguf" and find_vllm() is None:
        command = modal_command("evaluate", paths.run_folder(version.run) / RECIPE, version.run)
        raise StageFailed(f"{name}: form {version.form} is evaluated where vLLM runs: `{command}`")
    run = open_promoted_run(promotion)
    target = Path(version.file).stem if version.form == "gguf" else REFERENCE
    recipe = _recipe_of_version(version)
    suites, evaluated = _evaluate(recipe, run, target), _find_evaluation(run)
    promoted_on = evaluated if evaluated and evaluated.manifest.fingerprint == version.evaluate else None
    references = {
        "last": _read_last_score(name),
        "promoted": promoted_on and _read_scores(promoted_on, target),
        "baseline": promoted_on and _read_scores(promoted_on, str(promoted_on.metrics["gate"]["baseline"])),
        "candidate": _read_newest_scores(version.run),
    }
    score: dict[str, Any] = {
        "name": name,
        "run": version.run,
        "version": version.number,
        "at": _now(),
        "machine": str(describe_machine()),
        "engine": format_engine(describe_engine(recipe, target, run / "convert" / f"{target}.gguf")),
        "suites": suites,
        "references": references,
        "worse": find_regressions(suites, references),
    }
    _write_score(name, score)
    if score["worse"]:
        notify(f"Tuneline: {name} ({version.run}) got worse: {'; '.join(score['worse'])}", **score)
    return score


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _score_file(name: str) -> Path:
    return paths.scores() / name / f"{_now()[:10]}.json"


def _write_score(name: str, score: dict[str, Any]) -> None:
    file = _score_file(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(score, indent=1))


def find_regressions(suites: dict[str, Any], references: dict[str, Any]) -> list[str]:
    """Return `SUITE: 0.91, was 0.97 (last)` for each share that fell. A better candidate is no regression."""
    return [
        f"{suite}: {row['name_accuracy']:.3f}, was {reference[suite]['name_accuracy']:.3f} ({kind})"
        for kind, reference in references.items()
        if reference and kind != "candidate"
        for suite, row in suites.items()
        if suite in reference and row["name_accuracy"] < reference[suite]["name_accuracy"] - TOLERANCE
    ]


def _evaluate(recipe: Recipe, run: Path, target: str) -> dict[str, Any]:
    """Return suite → scoreboard row of `target`, evaluated now."""
    context = open_run_context(recipe, run)
    suites = {suite.name: make_items(suite, context) for suite in recipe.evaluate.suites}
    if not suites:
        raise StageFailed(f"{run.name}: its recipe has no suites to ask")
    with tempfile.TemporaryDirectory() as scratch, Engines(recipe, run, Path(scratch)) as engines:
        ask_engine(recipe, context, engines.start(target, run / "convert" / f"{target}.gguf"), suites, Path(scratch))
        answers = {
            suite: read_answers_of(Path(scratch), suite, target, [item.id for item in items])
            for suite, items in suites.items()
        }
    rows = [scoreboard_row(suite, target, records, recipe.evaluate.confidence) for suite, records in answers.items()]
    return {row["suite"]: row for row in rows}


def _read_last_score(name: str) -> dict[str, Any] | None:
    """Return the suites of the score before today's, or None; today's earlier score is replaced, not compared with."""
    today = datetime.now(UTC).date().isoformat()
    earlier = [file for file in sorted((paths.scores() / name).glob("*.json")) if file.stem < today]
    by_day = [json.loads(file.read_text()).get("suites") for file in earlier]
    return next((suites for suites in reversed(by_day) if suites), None)  # a failed evaluation has none


def _recipe_of_version(version: Version) -> Recipe:
    """Return the recipe of a version's run, as it serves, for the cores that this machine has."""
    recipe = recipe_of(paths.run_folder(version.run))
    serve = recipe.serve.model_copy(update={"form": version.form, "context": version.context})
    compute = recipe.compute.model_copy(update={"threads": None})
    return recipe.model_copy(update={"serve": serve, "compute": compute})


def _find_evaluation(run: Path) -> Artifact | None:
    """Return a run's evaluation, or None if there is none, or none of the files that are there now."""
    try:
        return open_stage(run, "evaluate")
    except TunelineError:
        return None


def _read_scores(evaluated: Artifact, target: str) -> dict[str, Any]:
    """Return suite → scoreboard row of `target`."""
    return {row["suite"]: row for row in evaluated.metrics["scoreboard"] if row["target"] == target}


def _read_newest_scores(promoted_run: str) -> dict[str, Any] | None:
    """Return the scores of the newest run other than the promoted one: a candidate that may be better."""
    others = [run for run in paths.runs().iterdir() if run.name != promoted_run and (run / RECIPE).exists()]
    evaluations = {run: evaluated for run in others if (evaluated := _find_evaluation(run))}
    if not evaluations:
        return None
    newest = max(evaluations, key=lambda run: evaluations[run].manifest.ended)
    return _read_scores(evaluations[newest], evaluated_target(evaluations[newest], recipe_of(newest)))
