"""Checkpoints for vLLM and other engines, made of the merged one by tools in environments of their own.

What `compressor.py` quantizes is calibrated on the run's own training text, as its template renders it. Tokenizer and
template are the merged checkpoint's.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneline.core.errors import StageFailed
from tuneline.stages.convert.conversations import load_tokenizer, read_conversations, render, tokenize
from tuneline.stages.convert.folders import onnx, tensorrt
from tuneline.stages.convert.folders.environments import run_in_environment
from tuneline.stages.convert.reference_model import compute_dtype, explain_too_large
from tuneline.stages.convert.scratch import move_finished
from tuneline.stages.convert.task import CheckpointSettings, ReportProgress, Task

ENVIRONMENT = "compress"
COMPRESSOR = Path(__file__).with_name("compressor.py")
PIECE_TOKENS = 512
"""Length of the calibration sequences. Texts are joined and cut: with short rows one by one, calibration mostly waits
for Python."""
MAX_ROWS = 16_384
"""Rows of the training data that are read at most."""
WEIGHTS = "model*.safetensors*"


def quantize_checkpoints(task: Task, report: ReportProgress) -> None:
    """Make the quantized checkpoints of `task` that are missing.

    Raises:
        StageFailed: the model is too large for this machine, the run has no conversations, or the tool fails.
    """
    assert task.folders and task.merged
    missing = {kind: folder for kind, folder in task.quantized_checkpoints.items() if not folder.exists()}
    if not missing:
        return
    if reason := explain_too_large(task.base):
        raise StageFailed(f"convert.folders: {reason}; set it to [], or give compute.convert.gpu")
    texts = task.scratch / "calibration.json"
    texts.write_text(json.dumps(_calibration_sequences(task, task.folders)))
    for index, (kind, folder) in enumerate(missing.items()):
        report(done=index, total=len(missing), unit="folders", text=f"{kind}: calibrating and quantizing")
        unfinished = task.scratch / folder.name
        shutil.rmtree(unfinished, ignore_errors=True)
        _quantize(kind, task.merged, unfinished, texts, task.scratch)
        move_finished(unfinished, folder, task.records)


def _quantize(kind: str, merged: Path, out: Path, texts: Path, scratch: Path) -> None:
    if kind == onnx.KIND:
        onnx.export_onnx(merged, out, scratch)
    else:
        scheme = tensorrt.SCHEME if kind == tensorrt.KIND else kind
        _run_compressor({"model": str(merged), "kind": scheme, "texts": str(texts), "out": str(out)}, scratch)
    for file in merged.iterdir():  # the tokenizer as it was trained: the tool's transformers might write it otherwise
        if not file.match(WEIGHTS) and file.name != "config.json":
            shutil.copyfile(file, out / file.name)
    if kind == tensorrt.KIND:
        tensorrt.add_launch_script(out)


def compute_logits(model: Path, base: Path, sequences: Sequence[Sequence[int]], scratch: Path) -> Path:
    """Return a file of the logits that a checkpoint gives for each token but the last of each sequence.

    It contains fp32 [tokens, vocabulary], the sequences one after the other.
    """
    texts, out = scratch / "sequences.json", scratch / f"{model.name}.f32"
    texts.write_text(json.dumps(sequences))
    if (model / onnx.MODEL).exists():
        onnx.compute_onnx_logits(model, texts, out, scratch)
    else:
        arguments = {"model": str(model), "dtype": compute_dtype(base), "texts": str(texts), "logits": str(out)}
        _run_compressor(arguments, scratch)
    return out


def _run_compressor(arguments: dict[str, Any], scratch: Path) -> None:
    run_in_environment(ENVIRONMENT, COMPRESSOR, arguments, scratch)


def _calibration_sequences(task: Task, settings: CheckpointSettings) -> list[list[int]]:
    """Return the ids of the run's training conversations, joined and cut into pieces."""
    tokenizer = load_tokenizer(task)
    ids: list[int] = []
    for conversation in read_conversations(settings.prepared, ("train.jsonl",), MAX_ROWS):
        if len(ids) >= settings.tokens:
            break
        ids += tokenize(tokenizer, render(tokenizer, conversation))
    if not ids:
        raise StageFailed("convert.folders: the run has no conversations to calibrate on; set it to []")
    ids = ids[: settings.tokens]
    return [ids[at : at + PIECE_TOKENS] for at in range(0, len(ids), PIECE_TOKENS)]
