"""The scheduled evaluation: every promoted model is evaluated again, with a notification if it got worse.

Scores are in `<scores>/NAME/DATE.json`, outside the runs: a finished artifact does not change.
"""

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import Recipe, recipe_of
from tuneline.core import artifacts, paths
from tuneline.core.errors import StageFailed, TunelineError
from tuneline.core.files import write_atomic
from tuneline.core.notification import notify
from tuneline.endpoints.promotion import Promotion, open_promoted_run, read_promotions
from tuneline.engines.vllm.vllm_server import find_vllm
from tuneline.stages.evaluate.answers import read_answers_of
from tuneline.stages.evaluate.clients.local_targets import ask_engine
from tuneline.stages.evaluate.clients.target_engines import Engines
from tuneline.stages.evaluate.scoring.scoreboard import scoreboard_row
from tuneline.stages.evaluate.suites.run_context import open_run_context
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.evaluate.targets import REFERENCE, served_target

TOLERANCE = 0.02
"""A share that fell by more than this is a regression; engines and sampling alone cause smaller differences."""


def evaluate_all() -> list[dict[str, Any]]:
    """Evaluate every promoted model, write the scores, and notify about regressions and failed evaluations."""
    scores = []
    for name, promotion in read_promotions().items():
        try:
            scores.append(evaluate_promotion(name, promotion))
        except TunelineError as error:
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
        raise StageFailed(f"{name}: form {version.form} is judged where vLLM runs: `modal run app.py::evaluate`")
    run = open_promoted_run(promotion)
    target = Path(version.file).stem if version.form == "gguf" else REFERENCE
    suites = _evaluate(recipe_of(run), run, target)
    references = {
        "last": _read_last_score(name),
        "promoted": _read_evaluation(run, target),
        "baseline": _read_evaluation(run, _baseline(run)),
        "candidate": _read_newest_evaluation(version.run),
    }
    score: dict[str, Any] = {
        "name": name,
        "run": version.run,
        "version": version.number,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "suites": suites,
        "references": references,
        "worse": find_regressions(suites, references),
    }
    folder = paths.scores() / name
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{score['at'][:10]}.json", json.dumps(score, indent=1))
    if score["worse"]:
        notify(f"Tuneline: {name} ({version.run}) got worse: {'; '.join(score['worse'])}", **score)
    return score


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
    return json.loads(earlier[-1].read_text())["suites"] if earlier else None


def _read_evaluation(run: Path, target: str) -> dict[str, Any] | None:
    """Return suite → scoreboard row of `target` in the run's `evaluate`, or None if the run is not evaluated."""
    if not artifacts.is_finished(run / "evaluate"):
        return None
    rows = artifacts.open_artifact(run / "evaluate").manifest.metrics["scoreboard"]
    return {row["suite"]: row for row in rows if row["target"] == target}


def _baseline(run: Path) -> str:
    """Return the target that the run's gate compared with: a model worse than that should not serve."""
    if not artifacts.is_finished(run / "evaluate"):
        return ""
    return str(artifacts.open_artifact(run / "evaluate").metrics["gate"]["baseline"])


def _read_newest_evaluation(promoted_run: str) -> dict[str, Any] | None:
    """Return the evaluation of the newest run other than the promoted one: a candidate that may be better."""
    others = [d for d in paths.runs().iterdir() if d.name != promoted_run and artifacts.is_finished(d / "evaluate")]
    if not others:
        return None
    newest = max(others, key=lambda d: artifacts.open_artifact(d / "evaluate").manifest.ended)
    return _read_evaluation(newest, served_target(recipe_of(newest)))
