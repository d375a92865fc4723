"""Every GGUF and the merged checkpoint of a task, written in one pass over the base."""

import json
from collections.abc import Sequence
from pathlib import Path

from tuneline.core.disk_space import find_free_bytes
from tuneline.core.errors import StageFailed
from tuneline.core.files import write_atomic
from tuneline.stages.checkpoints.base_config import is_tied, read_config
from tuneline.stages.checkpoints.lora_adapter import Adapter
from tuneline.stages.checkpoints.safetensors_files import StoredTensor, list_model_tensors
from tuneline.stages.convert.conversations import load_tokenizer
from tuneline.stages.convert.onepass import importance_matrix
from tuneline.stages.convert.onepass.converter import TunedModel
from tuneline.stages.convert.onepass.ggml import Ggml
from tuneline.stages.convert.onepass.gguf_plan import GgufFile, Plan, plan_files
from tuneline.stages.convert.onepass.merged_checkpoint import copy_other_files, plan_shards, write_stop_tokens
from tuneline.stages.convert.onepass.output_files import OutputFile
from tuneline.stages.convert.onepass.progress import ThrottledProgress
from tuneline.stages.convert.onepass.stream import stream_tensors
from tuneline.stages.convert.scratch import move_finished
from tuneline.stages.convert.task import ReportProgress, Task
from tuneline.stages.prepare.rendering.stop_tokens import added_stop_id, stop_token_ids

FINISHED = "whole.json"
"""Among the records: the files that are complete in scratch, and where each belongs; from then on they only move."""


def make_files(task: Task, ggml: Ggml, report: ReportProgress) -> None:
    """Write the files of `task` that are missing; what a killed call finished is kept.

    Raises:
        BadRecipe: an adapter kind that cannot be merged exactly. StageFailed: the adapter is of another base, or there
        is too little space.
    """
    finished = task.records / FINISHED
    if not _has_all_files(finished):
        finished.unlink(missing_ok=True)
        write_atomic(finished, json.dumps(_write_files(task, ggml, report)))
    for source, destination in json.loads(finished.read_text()):
        if Path(source).exists():
            move_finished(Path(source), Path(destination), task.records)


def _has_all_files(finished: Path) -> bool:
    """Return whether each file is in scratch or at its place: a scratch on another disk may have been lost."""
    if not finished.exists():
        return False
    moves = json.loads(finished.read_text(encoding="utf-8"))
    return all(Path(source).exists() or Path(destination).exists() for source, destination in moves)


def _write_files(task: Task, ggml: Ggml, report: ReportProgress) -> list[tuple[str, str]]:
    """Write every file to scratch; return pairs of its path there and the path it is to be moved to."""
    tensors = list_model_tensors(task.base)
    template = task.template.read_text("utf-8") if task.template else None
    adapter = _load_adapter(task, tensors)
    tokenizer = load_tokenizer(task)
    tuned = TunedModel(adapter, template, added_stop_id(tokenizer)) if adapter else None
    importance = importance_matrix.measure_importance(task) if task.imatrix else None
    files = [
        GgufFile(task.scratch / output.path.name, output.kind, output.name, tuned if output.tuned else None)
        for output in task.outputs
    ]
    plan = plan_files(task.base, files, ggml, task.scratch, importance)
    moves = [(file.path, output.path) for file, output in zip(files, task.outputs, strict=True)]
    if task.imatrix:
        moves.append((task.scratch / importance_matrix.FILE, task.imatrix.place))
    merged = task.scratch / "merged"
    if task.merged:
        _plan_merged(task.base, merged, template, plan)
        write_stop_tokens(merged, stop_token_ids(tokenizer))
    refuse_if_full(task.scratch, plan.files)
    stream_tensors(
        tensors,
        plan.destinations,
        plan.files,
        adapter,
        ggml,
        journal=task.scratch / "journal",
        threads=task.threads,
        progress=ThrottledProgress(report),
    )
    if task.merged:
        moves += [(file, task.merged / file.name) for file in sorted(merged.iterdir())]
    return [(str(source), str(destination)) for source, destination in moves]


def _load_adapter(task: Task, base: Sequence[StoredTensor]) -> Adapter | None:
    if not task.adapter:
        return None
    adapter = Adapter(task.adapter)
    adapter.check_base(base, tied=is_tied(read_config(task.base)))
    return adapter


def _plan_merged(base: Path, folder: Path, template: str | None, plan: Plan) -> None:
    """Add the merged checkpoint's shards to the plan, and write its other files."""
    folder.mkdir(exist_ok=True)
    shards, destinations = plan_shards(base, folder, len(plan.files))
    plan.files += shards
    for name, more in destinations.items():
        plan.destinations.setdefault(name, []).extend(more)
    copy_other_files(base, folder, template)


def refuse_if_full(folder: Path, files: Sequence[OutputFile]) -> None:
    """Raise StageFailed if `files` do not fit on the disk, as far as that is known: before hours of work, not after."""
    free = find_free_bytes(folder)
    if free is None:
        return
    written = sum(file.path.stat().st_blocks * 512 for file in files if file.path.exists())
    if (needed := sum(file.size for file in files) - written) > free:
        raise StageFailed(
            f"{folder}: {needed / 1e9:.1f} GB are needed for {len(files)} files and {free / 1e9:.1f} GB are free; "
            "free some space, or remove types from convert.types, and run again"
        )
