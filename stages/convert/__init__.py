"""Convert: base and adapter become GGUF files, each written beside its place and moved there when whole."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from configs.recipe import Recipe
from stages import artifact
from stages.artifact import Artifact
from stages.convert.llama_cpp import LlamaCpp, installed
from stages.errors import StageFailed
from stages.events import Events
from stages.fetch import open_base
from stages.prepare import TEMPLATE

BASE, REFERENCE = "base-F16", "tuned-F16"
LAST_LINES = 8


def convert(recipe: Recipe, run: Path) -> Artifact:
    """`convert/base-F16.gguf` and `convert/tuned-TYPE.gguf`; metrics tell bytes and tensor types of each."""
    base, prepared, trained = open_base(recipe), artifact.open_artifact(run / "prepare"), artifact.open_artifact(run / "train")
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
    names = [BASE, REFERENCE, *(f"tuned-{kind}" for kind in recipe.convert.types if kind != "F16")]
    merged = scratch / "merged"

    def tuned_f16(out: Path) -> None:
        merge(base, adapter, merged, lambda done, total: events.progress(done, total, "shards", "merged"))
        if template.exists():
            shutil.copyfile(template, merged / TEMPLATE)
        _gguf(llama, merged, out, recipe.name)

    def make(name: str) -> Callable[[Path], None]:
        if name == BASE:
            return lambda out: _gguf(llama, base, out, f"{recipe.base} (base)")
        if name == REFERENCE:
            return tuned_f16
        return lambda out: _quantize(llama, folder / f"{REFERENCE}.gguf", out, name.removeprefix("tuned-"))

    for done, name in enumerate(names):
        events.progress(done, len(names), "files", name)
        if not (folder / f"{name}.gguf").exists():
            make(name)(scratch / f"{name}.gguf")
            (scratch / f"{name}.gguf").replace(folder / f"{name}.gguf")
    events.progress(len(names), len(names), "files")
    return {"files": {name: _about(llama, folder / f"{name}.gguf") for name in names}}


def _gguf(llama: LlamaCpp, model: Path, out: Path, name: str) -> None:
    _run([sys.executable, "-m", "stages.convert.gguf", str(llama.source), "convert", str(model), str(out), name])


def _quantize(llama: LlamaCpp, source: Path, out: Path, kind: str) -> None:
    _run([str(llama.quantize), str(source), str(out), kind, str(len(os.sched_getaffinity(0)))])


def _about(llama: LlamaCpp, file: Path) -> dict[str, Any]:
    """Bytes, parameters by tensor type, and the share of them in K types."""
    out = _run([sys.executable, "-m", "stages.convert.gguf", str(llama.source), "types", str(file)])
    types: dict[str, int] = json.loads(out.splitlines()[-1])
    in_k = sum(count for kind, count in types.items() if kind.endswith("_K"))
    return {"bytes": file.stat().st_size, "types": types, "k_quant_share": round(in_k / sum(types.values()), 4)}


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-LAST_LINES:])
        raise StageFailed(f"`{' '.join(command[:4])} …` ended with {done.returncode}:\n{last}")
    return done.stdout
