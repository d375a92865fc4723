"""The models an evaluation compares: the base, the 16-bit tuned model, its quantized files, and which one is served."""

from pathlib import Path

from tuneline.configs.recipe import Recipe, Serve
from tuneline.core.artifacts import Artifact, refuse_removed, verify_files
from tuneline.core.errors import NotFound
from tuneline.stages.prepare.prepared_run import TEMPLATE
from tuneline.stages.prepare.rendering.tool_preselector import PRESELECTOR_FILE
from tuneline.stages.run_artifacts import open_stage

BASE, REFERENCE = "base", "tuned-F16"


def target_files(recipe: Recipe, converted: Path) -> dict[str, Path]:
    """Return the GGUF file of each target: the base, the 16-bit reference (always made), and each quantization."""
    names = [BASE, REFERENCE, *(f"tuned-{kind}" for kind in recipe.convert.types if kind != "F16")]
    return {name: converted / (f"{name}-F16.gguf" if name == BASE else f"{name}.gguf") for name in names}


def served_target(recipe: Recipe) -> str:
    """Return the target that goes live.

    An adapter and a merged model have the name of the 16-bit file of the same weights.
    """
    return f"tuned-{recipe.serve.type}" if recipe.serve.form == "gguf" else REFERENCE


def evaluated_target(evaluated: Artifact, recipe: Recipe) -> str:
    """Return the target that an evaluation's gate is about; that of `recipe` if the evaluation names none."""
    return str(evaluated.metrics.get("gate", {}).get("target") or served_target(recipe))


def served_path(serve: Serve) -> str:
    """Return the path, in the run's folder, of what the engine loads: a GGUF file, or a folder."""
    if serve.form == "gguf":
        return f"convert/tuned-{serve.type}.gguf"
    return "train/adapter" if serve.form == "adapter" else "convert/merged"


def hash_served_files(run: Path, serve: Serve) -> dict[str, str]:
    """Return path in the run's folder → SHA-256 of all that serving reads of a run, after reading it.

    That is the model, for an adapter its chat template, and the tools that the preselector knows.

    Raises:
        NotFound: the run has no such model, or it was removed. StageFailed: a file is damaged.
        StaleArtifact: as `open_stage`.
    """
    stage, _, model = served_path(serve).partition("/")
    artifact = open_stage(run, stage)
    refuse_removed(artifact, model)
    if not artifact.manifest.files_below(model):
        makes = "format: safetensors" if serve.form == "merged" else f"types: [{serve.type}]"
        raise NotFound(f"{artifact.path / model}: was not made; write `convert: {{{makes}}}` and convert again")
    hashes = {f"{stage}/{name}": digest for name, digest in verify_files(artifact, model).items()}
    prepared = open_stage(run, "prepare")
    beside = [PRESELECTOR_FILE, *([TEMPLATE] if serve.form == "adapter" else [])]
    for name in (name for name in beside if name in prepared.manifest.files):
        hashes[f"prepare/{name}"] = verify_files(prepared, name)[name]
    return hashes
