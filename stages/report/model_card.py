"""The model card: README.md and NOTICE beside a run's files, from its manifests and what its base's licence asks."""

import warnings
from pathlib import Path
from typing import Any

from tuneline.configs.models import Licence, registry
from tuneline.configs.recipe import Recipe, recipe_of
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.core.formatting import percent, template, words
from tuneline.stages.evaluate import served
from tuneline.stages.evaluate.verdicts.gate import of_run

FILE, NOTICE = "README.md", "NOTICE"
LIBRARIES = {"gguf": "gguf", "adapter": "peft", "merged": "transformers"}
RELATIONS = {"gguf": "quantized", "adapter": "adapter", "merged": "finetune"}

Row = dict[str, Any]


def write_card(run: Path) -> list[Path]:
    """Writes `convert/README.md`, and `convert/NOTICE` where the licence gives its words; returns their paths.

    Raises:
        NotFound: the run is not converted or not evaluated.
    """
    converted, evaluated = artifacts.open_artifact(run / "convert"), artifacts.open_artifact(run / "evaluate")
    recipe = recipe_of(run)
    key = registry().find(recipe.base)
    model = registry().models[key] if key else None
    licence = registry().licences.get(model.licence) if model else None
    name = name_of(run.name, licence)
    body = template(Path(__file__).with_name("card.md.jinja"), escape=False).render(
        name=name,
        recipe=recipe,
        base=recipe.base,
        revision=recipe.revision,
        licence=licence,
        licence_name=licence.name if licence else model.licence if model else "that of the base, which we do not know",
        prepared=_metrics(run / "prepare"),
        trained=_metrics(run / "train"),
        target=served(recipe),
        board=[row for row in evaluated.metrics.get("scoreboard", []) if row["target"] in ("base", served(recipe))],
        confidence=evaluated.metrics.get("confidence", recipe.evaluate.confidence),
        unproving=[suite.name for suite in recipe.evaluate.suites if not suite.proves],
        gate=of_run(run, evaluated.metrics["gate"]) if "gate" in evaluated.metrics else {},
        verdicts=_verdicts(evaluated),
        files=[(name, file.bytes, file.sha256) for name, file in converted.manifest.files.items() if _is_weights(name)],
        fidelity=converted.metrics.get("fidelity", {}),
        versions=converted.manifest.versions,
        evaluate=evaluated.manifest.fingerprint,
    )
    text = f"---\n{_head(recipe, name, licence, model.licence if model else None, evaluated)}\n---\n\n{body}"
    artifacts.write_atomic(converted.path / FILE, text)
    if not (licence and licence.notice):
        return [converted.path / FILE]
    artifacts.write_atomic(converted.path / NOTICE, licence.notice + "\n")
    return [converted.path / FILE, converted.path / NOTICE]


def name_of(run: str, licence: Licence | None) -> str:
    """The name it may bear: the run's, behind what the licence wants it to begin with."""
    begins = licence.name_begins if licence else None
    return run if begins is None or run.startswith(begins) else f"{begins}-{run}"


def _head(recipe: Recipe, name: str, licence: Licence | None, known_as: str | None, evaluated: Artifact) -> str:
    """The card's YAML, as the hub reads it (huggingface.co/docs/hub/model-cards)."""
    from huggingface_hub import EvalResult, ModelCardData

    hub = licence.hub if licence else None
    own: Row = {} if hub else {"license_name": (known_as or "unknown").lower().replace("'", "").replace(" ", "-")}
    link: Row = {} if hub or not licence else {"license_link": licence.url}
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=row["suite"],
            dataset_name=f"{words(row['suite'])} (n = {row['n']})",
            metric_type="accuracy",
            metric_name=f"right answers, {percent(row['name_low'])} to {percent(row['name_high'])}".replace(
                "\u202f", " "
            ),
            metric_value=row["name_accuracy"],
        )
        for row in evaluated.metrics.get("scoreboard", [])
        if row["target"] == served(recipe)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = ModelCardData(
            license=hub or "other",
            **own,
            **link,
            base_model=recipe.base if "/" in recipe.base else None,
            base_model_relation=RELATIONS[recipe.serve.form] if "/" in recipe.base else None,
            library_name=LIBRARIES[recipe.serve.form],
            pipeline_tag="text-generation",
            language=list(recipe.data.languages) or None,
            tags=["tuneline", *(["llama"] if licence and licence.name.startswith("Llama") else [])],
            model_name=name if results else None,
            eval_results=results or None,
        )
    return str(data.to_yaml())


def _is_weights(name: str) -> bool:
    return name.endswith((".gguf", ".safetensors")) and not name.startswith("base-")


def _metrics(stage: Path) -> Row:
    return artifacts.open_artifact(stage).metrics if artifacts.finished(stage) else {}


def _verdicts(evaluated: Artifact) -> Row:
    from tuneline.stages.report.evidence import verdicts

    found = verdicts(evaluated.path)
    return {task.task: task for task in found.tasks} if found else {}
