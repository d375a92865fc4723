"""One pass in a process of its own, started by `child_processes.child_process`.

Its request is the JSON of a `Task`; its progress goes to standard output, a JSON object a line. It is a process because
the pinned gguf-py must come before any other, and because memory it used is given back for certain.
"""

import errno
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneline.core.artifacts import write_atomic
from tuneline.core.child_processes import report_outcome
from tuneline.core.errors import StageFailed
from tuneline.engines.llama_cpp.build import find_llama_cpp
from tuneline.stages.checkpoints.lora_adapter import Adapter
from tuneline.stages.checkpoints.safetensors_files import is_tied, shards, stored
from tuneline.stages.convert.folders.merged import copy_the_rest, merged_shards
from tuneline.stages.convert.onepass.converter import Tuned
from tuneline.stages.convert.onepass.ggml import Ggml
from tuneline.stages.convert.onepass.stream import Paced, Target, stream

WHOLE = "whole.json"
"""In scratch: which files are whole there, and where each belongs; from then on they are only moved."""


@dataclass(frozen=True)
class Output:
    """A GGUF to make."""

    path: str
    kind: str
    name: str
    tuned: bool = True


@dataclass(frozen=True)
class Task:
    """What to make of a base, an adapter if there is one, and where."""

    base: str
    scratch: str
    outputs: list[dict[str, Any]] = field(default_factory=list)
    adapter: str | None = None
    template: str | None = None
    """The tuned model's chat template, a file."""
    merged: str | None = None
    """The folder of a merged checkpoint."""
    threads: int = 1
    folders: dict[str, Any] | None = None
    """Quantized checkpoints to make of the merged one."""
    imatrix: dict[str, Any] | None = None
    verify: dict[str, Any] | None = None


def main() -> int:
    task = Task(**json.load(sys.stdin))
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like

    def tell(**progress: Any) -> None:
        print(json.dumps(progress), file=out, flush=True)

    return report_outcome(lambda: run_or_name_full_disk(task, tell))


def run_or_name_full_disk(task: Task, tell: Any) -> dict[str, Any]:
    """Return what `run` returns.

    Raises:
        StageFailed: the disk is full. Whatever `run` raises.
    """
    try:
        return run(task, tell)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StageFailed(
            f"{task.scratch}: the disk is full; make room and run again: finished tensors are kept"
        ) from error


def run(task: Task, tell: Any) -> dict[str, Any]:
    """Make what is missing of the task; parameters by tensor type of each GGUF."""
    from tuneline.stages.convert.onepass import gguf_plan

    gguf_plan.use_vendored(find_llama_cpp())
    scratch, ggml = Path(task.scratch), Ggml(find_llama_cpp())
    if not (scratch / WHOLE).exists():
        moves = _write(task, scratch, ggml, lambda done, total, text: tell(done=done, total=total, text=text))
        write_atomic(scratch / WHOLE, json.dumps(moves))
    for whole, place in json.loads((scratch / WHOLE).read_text()):
        if Path(whole).exists():
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            put(Path(whole), Path(place))
    result: dict[str, Any] = {"types": {out["path"]: gguf_plan.types(Path(out["path"]), ggml) for out in task.outputs}}
    if task.folders:
        from tuneline.stages.convert.folders.compressed import compress

        compress(task, tell)
    if task.verify:
        from tuneline.stages.convert.verification.verify import verify

        result["verified"] = verify(task, tell)
    return result


def _write(task: Task, scratch: Path, ggml: Ggml, tell: Any) -> list[tuple[str, str]]:
    """Every file whole in scratch; returns where each belongs."""
    from tuneline.stages.convert.onepass import gguf_plan
    from tuneline.stages.convert.onepass.importance_matrix import FILE, measured

    base = Path(task.base)
    tensors = [tensor for shard in shards(base) for tensor in stored(shard)]
    adapter, tuned, importance = None, None, None
    template = Path(task.template).read_text("utf-8") if task.template else None
    if task.adapter:
        adapter = Adapter(Path(task.adapter))
        adapter.refuse_another_base(tensors, tied=is_tied(base))
        tuned = Tuned(adapter, template)
    if task.imatrix:
        importance = measured(task, scratch)
    outputs = [Output(**out) for out in task.outputs]
    wanted = [
        gguf_plan.Wanted(scratch / Path(out.path).name, out.kind, out.name, tuned if out.tuned else None)
        for out in outputs
    ]
    plan = gguf_plan.plan(base, wanted, ggml, scratch, importance)
    moves = [(str(one.path), out.path) for one, out in zip(wanted, outputs, strict=True)]
    if task.imatrix:
        moves.append((str(scratch / FILE), task.imatrix["place"]))
    if task.merged:
        folder = scratch / "merged"
        folder.mkdir(exist_ok=True)
        more, places = merged_shards(base, folder, len(plan.targets))
        plan.targets += more
        for name, found in places.items():
            plan.places.setdefault(name, []).extend(found)
        copy_the_rest(base, folder, template)
    _refuse_if_full(scratch, plan.targets)
    stream(
        tensors,
        plan.places,
        plan.targets,
        adapter,
        ggml,
        journal=scratch / "journal",
        threads=task.threads,
        progress=Paced(tell),
    )
    if task.merged:
        moves += [(str(file), str(Path(task.merged) / file.name)) for file in sorted((scratch / "merged").iterdir())]
    return moves


def _refuse_if_full(folder: Path, targets: list[Target]) -> None:
    """Before hours of work rather than at their end."""
    there = os.statvfs(folder)
    free = there.f_bavail * there.f_frsize
    held = sum(t.path.stat().st_blocks * 512 for t in targets if t.path.exists())
    if (needed := sum(target.size for target in targets) - held) > free:
        raise StageFailed(
            f"{folder}: {needed / 1e9:.1f} GB are needed for {len(targets)} files and {free / 1e9:.1f} GB are free; "
            "make room, or leave types out of convert.types, and run again"
        )


def put(whole: Path, place: Path) -> None:
    """Move a finished file to its place; its content reaches the disk before its name does."""
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    whole.replace(place)


if __name__ == "__main__":
    sys.exit(main())
