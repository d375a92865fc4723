"""The scheduled evaluation: everything promoted is asked again, and somebody hears of it when it got worse.

Scores lie in `<scores>/NAME/DATE.json`, outside the runs: an artifact that is finished stays as it is.
"""

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import Recipe, recipe_of
from tuneline.core import artifacts, paths
from tuneline.core.errors import StageFailed, TunelineError
from tuneline.core.notification import notify
from tuneline.endpoints.promotion import Promoted, all_promoted
from tuneline.engines.vllm.vllm_server import find_vllm
from tuneline.stages.evaluate import answers_of, ask_target, served
from tuneline.stages.evaluate.clients.target_engines import REFERENCE, Engines
from tuneline.stages.evaluate.scoring.scoreboard import scoreboard_row
from tuneline.stages.evaluate.suites.items import make_items
from tuneline.stages.evaluate.suites.run_context import of_run

WORSE = 0.02
"""A share that fell by more than this is told; under it lies what engines and sampling do by themselves."""


def evaluate_all() -> list[dict[str, Any]]:
    """Score every promoted model, write the scores, tell who got worse. One that cannot be asked is told too."""
    scores = []
    for name, record in all_promoted().items():
        try:
            scores.append(evaluate_one(name, record))
        except TunelineError as error:
            scores.append({"name": name, "error": str(error)})
            notify(f"Tuneline: {name} could not be evaluated: {error}", name=name)
    return scores


def evaluate_one(name: str, record: Promoted) -> dict[str, Any]:
    """The score of one promoted model: shares by suite, what they are compared with, and whether they got worse.

    Raises:
        StageFailed: its engine does not run here, or its files are not those that were promoted.
    """
    version = record.current
    run = paths.run_folder(version.run)
    if version.form != "gguf" and find_vllm() is None:
        raise StageFailed(f"{name}: form {version.form} is judged where vLLM runs: `modal run app.py::evaluate`")
    if artifacts.open_artifact(run / "convert").manifest.fingerprint != version.convert:
        raise StageFailed(f"{version.run} is not what was promoted as {name}; promote it again")
    target = Path(version.file).stem if version.form == "gguf" else REFERENCE
    shares = _ask(recipe_of(run), run, target)
    references = {
        "last": _last(name),
        "promoted": _judged(run, target),
        "baseline": _judged(run, _baseline(run)),
        "candidate": _newest(version.run),
    }
    score: dict[str, Any] = {
        "name": name,
        "run": version.run,
        "version": version.number,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "suites": shares,
        "references": references,
        "worse": _worse(shares, references),
    }
    folder = paths.scores() / name
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.write_atomic(folder / f"{score['at'][:10]}.json", json.dumps(score, indent=1))
    if score["worse"]:
        notify(f"Tuneline: {name} ({version.run}) got worse: {'; '.join(score['worse'])}", **score)
    return score


def _ask(recipe: Recipe, run: Path, target: str) -> dict[str, Any]:
    known = of_run(recipe, run)
    suites = {suite.name: make_items(suite, known) for suite in recipe.evaluate.suites}
    if not suites:
        raise StageFailed(f"{run.name}: its recipe has no suites to ask")
    with tempfile.TemporaryDirectory() as scratch, Engines(recipe, run, Path(scratch)) as engines:
        ask_target(recipe, known, engines.of(target, run / "convert" / f"{target}.gguf"), suites, Path(scratch))
        answers = {suite: answers_of(Path(scratch), suite, target, items) for suite, items in suites.items()}
    rows = [scoreboard_row(suite, target, found, recipe.evaluate.confidence) for suite, found in answers.items()]
    return {row["suite"]: row for row in rows}


def _last(name: str) -> dict[str, Any] | None:
    """The suites of the score before this one; another score of today is replaced, not compared with."""
    today = datetime.now(UTC).date().isoformat()
    earlier = [file for file in sorted((paths.scores() / name).glob("*.json")) if file.stem < today]
    return json.loads(earlier[-1].read_text())["suites"] if earlier else None


def _judged(run: Path, target: str) -> dict[str, Any] | None:
    """What `evaluate` found for a file of a run."""
    if not artifacts.finished(run / "evaluate"):
        return None
    board = artifacts.open_artifact(run / "evaluate").manifest.metrics["scoreboard"]
    return {row["suite"]: row for row in board if row["target"] == target}


def _baseline(run: Path) -> str:
    """What a promoted model was held against by its gate: worse than that, it should not serve."""
    if not artifacts.finished(run / "evaluate"):
        return ""
    return str(artifacts.open_artifact(run / "evaluate").metrics["gate"]["baseline"])


def _newest(promoted_run: str) -> dict[str, Any] | None:
    """What `evaluate` found for the newest run that is not the promoted one: a candidate that may be better."""
    others = [d for d in paths.runs().iterdir() if d.name != promoted_run and artifacts.finished(d / "evaluate")]
    if not others:
        return None
    newest = max(others, key=lambda d: artifacts.open_artifact(d / "evaluate").manifest.ended)
    recipe = recipe_of(newest)
    return _judged(newest, served(recipe))


def _worse(shares: dict[str, Any], references: dict[str, Any]) -> list[str]:
    """`SUITE: 0.91, was 0.97 (last)` for each that fell. A better candidate is shown, not told."""
    return [
        f"{suite}: {row['name_accuracy']:.3f}, was {known[suite]['name_accuracy']:.3f} ({reference})"
        for reference, known in references.items()
        if known and reference != "candidate"
        for suite, row in shares.items()
        if suite in known and row["name_accuracy"] < known[suite]["name_accuracy"] - WORSE
    ]
