"""Convert: base and adapter become GGUF files and a merged checkpoint in one pass over the base, then are verified."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import Artifact
from tuneline.core.child_processes import child_process, log_tail
from tuneline.core.errors import StageFailed
from tuneline.core.events import Events
from tuneline.engines.llama_cpp.build import LlamaCpp, find_llama_cpp
from tuneline.stages.convert.verification.verify import MERGED, REPORT
from tuneline.stages.convert.worker import Output, Task
from tuneline.stages.fetch.bases import open_base
from tuneline.stages.prepare import TEMPLATE

STAGE_VERSION = 2
BASE, REFERENCE = "base-F16", "tuned-F16"
IMATRIX = "imatrix.gguf"
LAST_LINES = 8


@dataclass(frozen=True)
class Job:
    """A model folder, the GGUF to make of it, and the name it bears inside."""

    model: Path
    out: Path
    name: str


def convert(recipe: Recipe, run: Path) -> Artifact:
    """`convert/base-F16.gguf`, `convert/tuned-TYPE.gguf`, a Modelfile each, `merged/` if wanted, and `verify.json`.

    Metrics tell bytes and tensor types of each file, and what was verified.

    Raises:
        BadRecipe: the adapter cannot be merged exactly. StageFailed: it does not fit, or a check failed.
    """
    base = open_base(recipe)
    prepared, trained = artifacts.open_artifact(run / "prepare"), artifacts.open_artifact(run / "train")
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
    scratch, template = folder / artifacts.SCRATCH, prepared / TEMPLATE
    scratch.mkdir(exist_ok=True)
    kinds = ("F16", *(kind for kind in recipe.convert.types if kind != "F16"))
    outputs = [Output(str(folder / f"{BASE}.gguf"), "F16", f"{recipe.base} (base)", tuned=False)]
    outputs += [Output(str(folder / f"tuned-{kind}.gguf"), kind, recipe.name) for kind in kinds]
    task = Task(
        base=str(base),
        scratch=str(scratch),
        outputs=[asdict(out) for out in outputs],
        adapter=str(adapter),
        template=str(template) if template.exists() else None,
        merged=_merged(recipe, folder),
        threads=recipe.compute.threads or len(os.sched_getaffinity(0)),
        folders={
            "prepared": str(prepared),
            "kinds": recipe.convert.folders,
            "tokens": recipe.convert.calibration_tokens,
        }
        if recipe.convert.folders
        else None,
        imatrix={
            "prepared": str(prepared),
            "place": str(folder / IMATRIX),
            "tokens": recipe.convert.imatrix_tokens,
        }
        if recipe.convert.imatrix_tokens
        else None,
        verify={
            "prepared": str(prepared),
            "report": str(folder / REPORT),
            "tokens": recipe.convert.verify_tokens,
            "floor": recipe.convert.top_1_floor,
        },
    )
    told = _work(task, events)
    files = {Path(out.path).stem: _about(Path(out.path), told["types"][out.path]) for out in outputs}
    more = {f"tuned-{kind}": {"bytes": _bytes(folder / f"tuned-{kind}")} for kind in recipe.convert.folders}
    for why in told["verified"]["skipped"]:
        events.emit("warning", text=f"not verified: {why}")
    return {"files": files, "folders": more, **told["verified"]}


def _merged(recipe: Recipe, folder: Path) -> str | None:
    """Where the merged checkpoint goes: to scratch, if it is only wanted to make others of it."""
    if recipe.convert.format == "safetensors":
        return str(folder / MERGED)
    return str(folder / artifacts.SCRATCH / "whole") if recipe.convert.folders else None


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _gguf(llama: LlamaCpp, scratch: Path, *jobs: Job) -> None:
    """Plain model folders in F16."""
    for job in jobs:
        outputs = [asdict(Output(str(job.out), "F16", job.name, tuned=False))]
        _work(Task(base=str(job.model), scratch=str(scratch), outputs=outputs), None)
        (scratch / "whole.json").unlink()


def _about(file: Path, types: dict[str, int]) -> dict[str, Any]:
    """Bytes, parameters by tensor type, and the share of them in K types."""
    return {"bytes": file.stat().st_size, "types": types, "k_quant_share": _k_share(types)}


def _k_share(types: dict[str, int]) -> float:
    return round(sum(count for kind, count in types.items() if kind.endswith("_K")) / sum(types.values()), 4)


def _work(task: Task, events: Events | None) -> dict[str, Any]:
    """Run a task in a process of its own, passing its progress on as events; return its result.

    Raises:
        StageFailed: it ended without a result. Whatever the task raised.
    """
    log = Path(task.scratch) / "worker.log"
    with (
        log.open("wb") as errors,
        child_process(
            "tuneline.stages.convert.worker", request=json.dumps(asdict(task)), stdout=subprocess.PIPE, stderr=errors
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
