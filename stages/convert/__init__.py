"""Convert: base and adapter become GGUF files and a merged checkpoint in one pass over the base, then are verified."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.core.child_processes import child_process, log_tail
from tuneline.core.errors import StageFailed
from tuneline.core.events import Events
from tuneline.engines.llama_cpp.build import find_llama_cpp
from tuneline.stages.convert.scratch import open_scratch
from tuneline.stages.convert.task import (
    MERGED,
    CheckpointSettings,
    GgufOutput,
    ImatrixSettings,
    Task,
    VerifySettings,
)
from tuneline.stages.convert.verification.verify import REPORT
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.prepare.prepared_run import TEMPLATE
from tuneline.stages.run_artifacts import open_stage

STAGE_VERSION = 3
BASE, REFERENCE = "base-F16", "tuned-F16"
"""The 16-bit GGUF files: the base, and what quantizations are compared with."""
IMATRIX = "imatrix.gguf"
LAST_LINES = 8


def convert(recipe: Recipe, run: Path) -> Artifact:
    """Return the artifact with the model's files and their verification.

    It contains `base-F16.gguf`, `tuned-TYPE.gguf` with a Modelfile each, `merged/` and quantized checkpoints if the
    recipe asks for them, and `verify.json`. Its metrics have each file's bytes and tensor types, and what was verified.

    Raises:
        BadRecipe: the adapter cannot be merged exactly. StageFailed: it is of another base, or a check failed.
    """
    base = open_base(recipe)
    prepared, trained = open_stage(run, "prepare"), open_stage(run, "train")
    return artifacts.make(
        run / "convert",
        stage_version=STAGE_VERSION,
        settings=recipe.section("convert"),
        needs={"fetch": base, "prepare": prepared, "train": trained},
        build=lambda folder: _build(
            recipe, base.path, prepared.path, trained.path / "adapter", folder, Events(run, "convert")
        ),
    )


def _build(
    recipe: Recipe, base: Path, prepared: Path, adapter: Path, folder: Path, events: Events
) -> Mapping[str, Any]:
    find_llama_cpp()
    with open_scratch(folder) as scratch:
        task = make_task(recipe, base, prepared, adapter, folder, scratch)
        result = run_task(task, events)
    files = {output.path.stem: _measure_gguf(output.path, result["types"][str(output.path)]) for output in task.outputs}
    checkpoints = {path.name: {"bytes": _folder_bytes(path)} for path in task.quantized_checkpoints.values()}
    for reason in result["verified"]["skipped"]:
        events.emit("warning", text=f"not verified: {reason}")
    for difference in result["verified"]["differences"]:
        events.emit("warning", text=f"{difference}; the files are kept, and evaluation decides")
    return {"files": files, "folders": checkpoints, **result["verified"]}


def make_task(recipe: Recipe, base: Path, prepared: Path, adapter: Path, folder: Path, scratch: Path) -> Task:
    """Return what the recipe asks for, to be made in `folder`, with unfinished files in `scratch`."""
    settings, template = recipe.convert, prepared / TEMPLATE
    kinds = ("F16", *(kind for kind in settings.types if kind != "F16"))
    outputs = [GgufOutput(path=folder / f"{BASE}.gguf", kind="F16", name=f"{recipe.base} (base)", tuned=False)]
    outputs += [GgufOutput(path=folder / f"tuned-{kind}.gguf", kind=kind, name=recipe.name) for kind in kinds]
    folders = CheckpointSettings(prepared=prepared, kinds=settings.folders, tokens=settings.calibration_tokens)
    imatrix = ImatrixSettings(prepared=prepared, place=folder / IMATRIX, tokens=settings.imatrix_tokens)
    return Task(
        base=base,
        scratch=scratch,
        durable=folder / artifacts.SCRATCH,
        outputs=tuple(outputs),
        adapter=adapter,
        template=template if template.exists() else None,
        merged=_merged_folder(recipe, folder, scratch),
        threads=recipe.compute.threads or len(os.sched_getaffinity(0)),
        folders=folders if settings.folders else None,
        imatrix=imatrix if settings.imatrix_tokens else None,
        verify=VerifySettings(
            prepared=prepared, report=folder / REPORT, tokens=settings.verify_tokens, floor=settings.top_1_floor
        ),
    )


def _merged_folder(recipe: Recipe, folder: Path, scratch: Path) -> Path | None:
    """Return where the merged checkpoint goes: to scratch if only quantized checkpoints are made of it."""
    if recipe.convert.format == "safetensors":
        return folder / MERGED
    return scratch / "whole" if recipe.convert.folders else None


def _measure_gguf(file: Path, types: Mapping[str, int]) -> dict[str, Any]:
    """Return bytes, parameters by tensor type, and the share of parameters in K types."""
    k_quants = sum(count for kind, count in types.items() if kind.endswith("_K"))
    share = round(k_quants / sum(types.values()), 4)
    return {"bytes": file.stat().st_size, "types": types, "k_quant_share": share}


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def run_task(task: Task, events: Events | None) -> dict[str, Any]:
    """Run `task` in a process of its own, passing its progress on as events; return the result of `worker.run`.

    Raises:
        StageFailed: it ended without a result. Whatever the task raised.
    """
    log = task.records / "worker.log"
    with (
        log.open("wb") as errors,
        child_process(
            "tuneline.stages.convert.worker", request=task.model_dump_json(), stdout=subprocess.PIPE, stderr=errors
        ) as child,
        child.process as worker,
    ):
        assert worker.stdout
        for line in worker.stdout:
            progress = json.loads(line)
            if events:
                unit = progress.get("unit", "bytes")
                events.progress(progress["done"], progress["total"], unit, progress["text"])
        code = worker.wait()
        result: dict[str, Any] | None = child.outcome()
    if code or result is None:
        tail = log_tail(log, LAST_LINES)
        raise StageFailed(f"converting {task.base} ended with {code}; the end of its log:\n{tail}")
    return result
