"""Finished runs made in milliseconds: each stage's artifact from those before it, as the stages make them.

Only the content is small: the weights are a few bytes, and no model answers. A stage can be removed and made again.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import RECIPE, Recipe, recipe_of
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import artifacts, paths
from tuneline.core.artifacts import Artifact, read_artifact
from tuneline.core.paths import ROOT
from tuneline.stages.evaluate import stage_settings
from tuneline.stages.evaluate.answers import Answer, answers_file
from tuneline.stages.evaluate.targets import BASE, hash_served_files, served_target
from tuneline.stages.evaluate.verdicts.gate import later_demands
from tuneline.stages.fetch.bases import locate_base, open_base
from tuneline.stages.run_artifacts import open_stage

MICRO = load_recipe(ROOT / "configs/recipes/micro.yaml")
PASSED = {"outcome": "pass", "passed": True, "demands": 1, "reasons": ["unseen: 99 %"], "unmet": [], "open": []}
NO_METRICS: Mapping[str, Any] = {}
TargetAnswers = Mapping[str, Mapping[str, Sequence[Answer]]]
"""Answers by target and suite."""
NO_ANSWERS: TargetAnswers = {}


def make_run(
    folder: Path, recipe: Recipe = MICRO, gate: Mapping[str, Any] = PASSED, answers: TargetAnswers = NO_ANSWERS
) -> Path:
    """A run of every stage, with its recipe; `gate` is what evaluation decided."""
    folder.mkdir(parents=True)
    (folder / RECIPE).write_text(recipe.model_dump_json())
    make_prepare(folder)
    make_train(folder)
    make_convert(folder)
    make_evaluate(folder, gate, answers)
    return folder


def make_base(recipe: Recipe) -> Artifact:
    source = locate_base(recipe)
    files = {"config.json": '{"model_type": "llama"}', "model.safetensors": "weights"}
    build = write_files(files)
    return artifacts.make(
        paths.models() / source.slug, stage="fetch", stage_version=1, settings=source.settings, needs={}, build=build
    )


def make_prepare(
    run: Path, files: Mapping[str, str] = {"train.jsonl": ""}, metrics: Mapping[str, Any] = NO_METRICS
) -> Artifact:
    recipe, metrics = recipe_of(run), {"rows_train": 90, "rows_validation": 10, "tokens_mean": 50.0} | metrics
    return _make(run, "prepare", recipe.section("data"), {"fetch": make_base(recipe)}, files, metrics)


def make_train(run: Path, weights: str = "", metrics: Mapping[str, Any] = NO_METRICS) -> Artifact:
    recipe = recipe_of(run)
    needs = {"fetch": make_base(recipe), "prepare": open_stage(run, "prepare")}
    files = {"adapter/adapter_config.json": '{"r": 8}', "adapter/adapter_model.safetensors": weights or run.name}
    return _make(run, "train", recipe.section("base", "train"), needs, files, metrics)


def make_convert(run: Path, weights: str = "", metrics: Mapping[str, Any] = NO_METRICS, **changed: Any) -> Artifact:
    """`changed` are settings of `convert` that differ from the recipe's; without `weights` they are the run's own."""
    recipe, weights = recipe_of(run), weights or run.name
    recipe = recipe.model_copy(update={"convert": recipe.convert.model_copy(update=changed)})
    needs = {"fetch": make_base(recipe), "prepare": open_stage(run, "prepare"), "train": open_stage(run, "train")}
    names = ["base-F16", "tuned-F16", *(f"tuned-{kind}" for kind in recipe.convert.types if kind != "F16")]
    files = {f"{name}.gguf": f"{weights} {name}" for name in names}
    files |= {"merged/model.safetensors": weights} if recipe.convert.format == "safetensors" else {}
    sizes = {"files": {name: {"bytes": len(files[f"{name}.gguf"])} for name in names}}
    return _make(run, "convert", recipe.section("convert"), needs, files, sizes | metrics)


def make_evaluate(
    run: Path,
    gate: Mapping[str, Any] = PASSED,
    answers: TargetAnswers = NO_ANSWERS,
    metrics: Mapping[str, Any] = NO_METRICS,
) -> Artifact:
    recipe = recipe_of(run)
    of_files = {
        "target": served_target(recipe),
        "baseline": BASE,
        "files": hash_served_files(run, recipe.serve),
        "later": later_demands(recipe.evaluate),
    }
    needs = {"prepare": open_stage(run, "prepare"), "convert": open_stage(run, "convert")}
    files = {
        str(answers_file(Path(), suite, target)): "".join(json.dumps(asdict(answer)) + "\n" for answer in of_suite)
        for target, suites in answers.items()
        for suite, of_suite in suites.items()
    }
    tables: dict[str, Any] = {"confidence": recipe.evaluate.confidence, "scoreboard": [], "classifier": []}
    return _make(run, "evaluate", stage_settings(recipe), needs, files, tables | metrics | {"gate": of_files | gate})


def make_again(run: Path, stage: str, **settings: Any) -> Artifact:
    """Seal what is in a stage's folder anew, made from what is in the run now, with other `settings`."""
    old = read_artifact(run / stage).manifest
    (run / stage / artifacts.MANIFEST).unlink()
    made_from, metrics = old.made_from, old.metrics
    if stage == "evaluate":
        metrics = metrics | {"gate": metrics["gate"] | {"files": hash_served_files(run, recipe_of(run).serve)}}
    needs = {name: open_stage(run, name) for name in made_from.needs if name != "fetch"}
    base = {"fetch": open_base(recipe_of(run))} if "fetch" in made_from.needs else {}
    return artifacts.make(
        run / stage,
        stage_version=made_from.stage_version,
        settings=made_from.settings | settings,
        needs=needs | base,
        build=lambda _: metrics,
    )


def remove(run: Path, *stages: str) -> None:
    for stage in stages:
        shutil.rmtree(run / stage)


def flip_a_bit(file: Path) -> None:
    """The file keeps its size."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def link_elsewhere(file: Path) -> None:
    """The file becomes a link to the same bytes, outside of its artifact."""
    elsewhere = file.parents[1] / f"elsewhere-{file.name}"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def write_files(files: Mapping[str, str], metrics: Mapping[str, Any] = NO_METRICS) -> Any:
    def build(folder: Path) -> dict[str, Any]:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        return dict(metrics)

    return build


def _make(
    run: Path,
    stage: str,
    settings: Mapping[str, Any],
    needs: Mapping[str, Artifact],
    files: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> Artifact:
    build = write_files(files, metrics)
    return artifacts.make(run / stage, stage_version=1, settings=settings, needs=needs, build=build)
