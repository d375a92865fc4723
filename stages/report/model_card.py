"""The model card: README.md and NOTICE beside a run's files, from its manifests and what its base's licence asks."""

import warnings
from pathlib import Path

from tuneline.configs.models import Licence, registry
from tuneline.configs.recipe import Recipe, recipe_of
from tuneline.core.artifacts import Artifact, is_finished
from tuneline.core.files import write_atomic
from tuneline.core.formatting import format_label, format_percent
from tuneline.core.page_templates import load_template
from tuneline.stages.evaluate.targets import evaluated_target
from tuneline.stages.evaluate.verdicts.gate import gate_of_run, name_outcome
from tuneline.stages.evaluate.verdicts.measurement import describe_measurement, describe_variation
from tuneline.stages.report.run_record import Row
from tuneline.stages.report.sections.scoreboard import read_base_verdicts
from tuneline.stages.run_artifacts import open_stage, verify_stage

FILE, NOTICE = "README.md", "NOTICE"
LIBRARIES = {"gguf": "gguf", "adapter": "peft", "merged": "transformers"}
"""The hub's `library_name`, by serving form."""
RELATIONS = {"gguf": "quantized", "adapter": "adapter", "merged": "finetune"}
"""The hub's `base_model_relation`, by serving form."""


def write_card(run: Path) -> list[Path]:
    """Write `convert/README.md`, and `convert/NOTICE` where the licence has such a text; return their paths.

    Raises:
        As `make_card`.
    """
    texts = make_card(run)
    for name, text in texts.items():
        write_atomic(run / "convert" / name, text)
    return [run / "convert" / name for name in texts]


def make_card(run: Path) -> dict[str, str]:
    """Return the text of `README.md`, and of `NOTICE` where the licence has such a text.

    Raises:
        NotFound: the run is not converted or not evaluated.
        StaleArtifact: its figures are of other files. StageFailed: a file is not what its SHA-256 in the card says.
    """
    converted, evaluated = verify_stage(run, "convert"), verify_stage(run, "evaluate")
    recipe = recipe_of(run)
    licence_key, licence = _find_licence(recipe.base)
    name = prefix_name(run.name, licence)
    context = {
        "name": name,
        "licence": licence,
        "licence_name": licence.name if licence else licence_key or "that of the base (unknown)",
        **_describe_training(recipe, run),
        **_describe_evaluation(recipe, run, evaluated),
        **_describe_files(converted),
    }
    body = load_template(Path(__file__).with_name("card.md.jinja")).render(**context)
    text = f"---\n{_format_metadata(recipe, name, licence, licence_key, evaluated)}\n---\n\n{body}"
    return {FILE: text} | ({NOTICE: licence.notice + "\n"} if licence and licence.notice else {})


def prefix_name(run: str, licence: Licence | None) -> str:
    """Return the run's name, behind the prefix that the licence requires (such as `Llama`) unless it begins with it."""
    prefix = licence.name_begins if licence else None
    return run if prefix is None or run.startswith(prefix) else f"{prefix}-{run}"


def _find_licence(base: str) -> tuple[str | None, Licence | None]:
    """Return the registry's key of a base's licence, and the licence; None for what the registry does not know."""
    key = registry().find(base)
    if key is None:
        return None, None
    licence_key = registry().models[key].licence
    return licence_key, registry().licences.get(licence_key)


def _describe_training(recipe: Recipe, run: Path) -> Row:
    return {
        "recipe": recipe,
        "base": recipe.base,
        "revision": recipe.revision,
        "prepared": _read_metrics(run, "prepare"),
        "trained": _read_metrics(run, "train"),
    }


def _describe_evaluation(recipe: Recipe, run: Path, evaluated: Artifact) -> Row:
    metrics, target = evaluated.metrics, evaluated_target(evaluated, recipe)
    verdicts = read_base_verdicts(evaluated.path)
    gate = gate_of_run(run, metrics["gate"]) if "gate" in metrics else {}
    return {
        "target": target,
        "board": [row for row in metrics.get("scoreboard", []) if row["target"] in ("base", target)],
        "confidence": metrics.get("confidence", recipe.evaluate.confidence),
        "unproving": [suite.name for suite in recipe.evaluate.suites if not suite.proves],
        "gate": gate,
        "outcome": name_outcome(gate) if gate else "",
        "verdicts": {task.task: task for task in verdicts.tasks} if verdicts else {},
        "evaluate": evaluated.manifest.fingerprint,
        "measured": [describe_measurement(evaluated), *describe_variation(run, target)],
    }


def _describe_files(converted: Artifact) -> Row:
    files = converted.manifest.files.items()
    return {
        "files": [(name, file.bytes, file.sha256) for name, file in files if _is_tuned_weights(name)],
        "fidelity": converted.metrics.get("fidelity", {}),
        "versions": converted.manifest.versions,
        "verified": converted.manifest.origin,
    }


def _format_metadata(
    recipe: Recipe, name: str, licence: Licence | None, licence_key: str | None, evaluated: Artifact
) -> str:
    """Return the card's YAML as the hub reads it (https://huggingface.co/docs/hub/model-cards)."""
    from huggingface_hub import EvalResult, ModelCardData

    is_on_hub = "/" in recipe.base
    results = [EvalResult(**_to_eval_result(row)) for row in _list_served_rows(recipe, evaluated)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = ModelCardData(
            **_describe_licence(licence, licence_key),
            base_model=recipe.base if is_on_hub else None,
            base_model_relation=RELATIONS[recipe.serve.form] if is_on_hub else None,
            library_name=LIBRARIES[recipe.serve.form],
            pipeline_tag="text-generation",
            language=list(recipe.data.languages) or None,
            tags=["tuneline", *(["llama"] if licence and licence.name.startswith("Llama") else [])],
            model_name=name if results else None,
            eval_results=results or None,
        )
    return str(data.to_yaml())


def _describe_licence(licence: Licence | None, licence_key: str | None) -> Row:
    """Return the hub's identifier of a licence; without one, `other` with the licence's name and page."""
    if licence and licence.hub:
        return {"license": licence.hub}
    name = (licence_key or "unknown").lower().replace("'", "").replace(" ", "-")
    return {"license": "other", "license_name": name, **({"license_link": licence.url} if licence else {})}


def _list_served_rows(recipe: Recipe, evaluated: Artifact) -> list[Row]:
    target = evaluated_target(evaluated, recipe)
    return [row for row in evaluated.metrics.get("scoreboard", []) if row["target"] == target]


def _to_eval_result(row: Row) -> Row:
    """Return the arguments of `huggingface_hub.EvalResult` for a row of the scoreboard."""
    interval = f"{format_percent(row['name_low'])} to {format_percent(row['name_high'])}".replace("\u202f", " ")
    return {
        "task_type": "text-generation",
        "dataset_type": row["suite"],
        "dataset_name": f"{format_label(row['suite'])} (n = {row['n']})",
        "metric_type": "accuracy",
        "metric_name": f"right answers, {interval}",
        "metric_value": row["name_accuracy"],
    }


def _is_tuned_weights(name: str) -> bool:
    return name.endswith((".gguf", ".safetensors")) and not name.startswith("base-")


def _read_metrics(run: Path, stage: str) -> Row:
    return open_stage(run, stage).metrics if is_finished(run / stage) else {}
