"""Convert: base and adapter become GGUF files, each written beside its place and moved there when whole."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.recipe import Recipe
from stages import artifact
from stages.artifact import Artifact
from stages.convert.gguf import put
from stages.convert.llama_cpp import LlamaCpp, installed
from stages.errors import StageFailed
from stages.events import Events
from stages.fetch import open_base
from stages.prepare import TEMPLATE

BASE, REFERENCE = "base-F16", "tuned-F16"
LAST_LINES = 8
DISK_IS_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "iostream error")
"""How it reads in a subprocess's output; the last is all that llama-quantize says of a failed write."""


@dataclass(frozen=True)
class Job:
    """A model folder, the GGUF to make of it, and the name it bears inside."""

    model: Path
    out: Path
    name: str


def convert(recipe: Recipe, run: Path) -> Artifact:
    """`convert/base-F16.gguf` and `convert/tuned-TYPE.gguf`; metrics tell bytes and tensor types of each."""
    base = open_base(recipe)
    prepared, trained = artifact.open_artifact(run / "prepare"), artifact.open_artifact(run / "train")
    return artifact.make(
        run / "convert",
        stage_version=1,
        settings=recipe.section("convert"),
        needs={"fetch": base, "prepare": prepared, "train": trained},
        build=lambda folder: _build(
            recipe, base.path, prepared.path / TEMPLATE, trained.path / "adapter", folder, Events(run, "convert")
        ),
    )


def _build(
    recipe: Recipe, base: Path, template: Path, adapter: Path, folder: Path, events: Events
) -> Mapping[str, Any]:
    from stages.convert.merge import merge

    llama, scratch = installed(), folder / artifact.SCRATCH
    scratch.mkdir(exist_ok=True)
    kinds = [kind for kind in recipe.convert.types if kind != "F16"]
    names, merged = [BASE, REFERENCE, *(f"tuned-{kind}" for kind in kinds)], scratch / "merged"
    whole = [Job(base, folder / f"{BASE}.gguf", f"{recipe.base} (base)")]
    whole.append(Job(merged, folder / f"{REFERENCE}.gguf", recipe.name))
    missing = [job for job in whole if not job.out.exists()]
    events.progress(len(whole) - len(missing), len(names), "files", ", ".join(job.out.stem for job in missing))
    if whole[1] in missing:
        merge(base, adapter, merged, lambda done, total: events.progress(done, total, "shards", "merged"))
        if template.exists():
            shutil.copyfile(template, merged / TEMPLATE)
    if missing:
        _gguf(llama, scratch, *missing)
    shutil.rmtree(merged, ignore_errors=True)  # as large as the base, and not needed again
    for done, kind in enumerate(kinds, len(whole)):
        out = folder / f"tuned-{kind}.gguf"
        events.progress(done, len(names), "files", out.stem)
        if not out.exists():
            _quantize(llama, whole[1].out, scratch / out.name, kind)
            put(scratch / out.name, out)
    events.progress(len(names), len(names), "files")
    return {"files": dict(zip(names, _about(llama, [folder / f"{name}.gguf" for name in names]), strict=True))}


def _gguf(llama: LlamaCpp, scratch: Path, *jobs: Job) -> None:
    """In one process for all, since its imports take longer than a small model; it puts each in place when whole."""
    words = [word for job in jobs for word in (str(job.model), str(job.out), job.name)]
    _run([sys.executable, "-m", "stages.convert.gguf", str(llama.source), "convert", str(scratch), *words], scratch)


def _quantize(llama: LlamaCpp, source: Path, out: Path, kind: str) -> None:
    _run([str(llama.quantize), str(source), str(out), kind, str(len(os.sched_getaffinity(0)))], out.parent)


def _about(llama: LlamaCpp, files: list[Path]) -> list[dict[str, Any]]:
    """Of each file: bytes, parameters by tensor type, and the share of them in K types."""
    out = _run(
        [sys.executable, "-m", "stages.convert.gguf", str(llama.source), "types", *map(str, files)], files[0].parent
    )
    read: list[dict[str, int]] = json.loads(out.splitlines()[-1])
    return [
        {"bytes": file.stat().st_size, "types": types, "k_quant_share": _k_share(types)}
        for file, types in zip(files, read, strict=True)
    ]


def _k_share(types: dict[str, int]) -> float:
    return round(sum(count for kind, count in types.items() if kind.endswith("_K")) / sum(types.values()), 4)


def _run(command: list[str], writes_to: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-LAST_LINES:])
        if any(told in last for told in DISK_IS_FULL):
            raise StageFailed(
                f"{writes_to}: the disk is full; make room and run again: finished files are kept\n{last}"
            )
        raise StageFailed(f"`{' '.join(command[:4])} …` ended with {done.returncode}:\n{last}")
    return done.stdout
