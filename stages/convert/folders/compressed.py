"""Checkpoints for vLLM and other engines, made of the merged one in environments of their own.

What is quantized by `compressor.py` is calibrated on the run's own training text, as its template writes it. Beside the
weights lie the merged checkpoint's own tokenizer and template.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.core.errors import StageFailed
from tuneline.stages.convert.folders import onnx, tensorrt
from tuneline.stages.convert.folders.environments import run_in
from tuneline.stages.convert.verification.reference_model import (
    computes_in,
    own_talks,
    own_tokenizer,
    rendered,
    too_large,
)

if TYPE_CHECKING:
    from tuneline.stages.convert.worker import Task

ENVIRONMENT = "compress"
COMPRESSOR = Path(__file__).with_name("compressor.py")
PIECE_TOKENS = 512
"""Texts are joined and cut into pieces of so many: with short rows one by one, calibration mostly waits for Python."""
MOST_ROWS = 16_384
WEIGHTS = "model*.safetensors*"


def folder_of(report: Path, kind: str) -> Path:
    """Where the checkpoint of a kind lies, beside `report`."""
    return report.parent / f"tuned-{kind}"


def compress(task: "Task", tell: Callable[..., None]) -> None:
    """Make each of `task.folders["kinds"]` that is not there.

    Raises:
        StageFailed: the model is too large for this machine, the run has no text, or the tool fails.
    """
    assert task.folders and task.merged and task.verify
    scratch, merged = Path(task.scratch), Path(task.merged)
    places = {kind: folder_of(Path(task.verify["report"]), kind) for kind in task.folders["kinds"]}
    missing = {kind: place for kind, place in places.items() if not place.exists()}
    if not missing:
        return
    if why := too_large(Path(task.base)):
        raise StageFailed(f"convert.folders: {why}; set it to [], or give compute.convert.gpu")
    texts = scratch / "calibration.json"
    texts.write_text(json.dumps(_pieces(task, task.folders["tokens"])))
    for done, (kind, place) in enumerate(missing.items()):
        tell(done=done, total=len(missing), unit="folders", text=f"{kind}: calibrating and quantizing")
        made = scratch / place.name
        shutil.rmtree(made, ignore_errors=True)
        if kind == onnx.KIND:
            onnx.export(merged, made, scratch)
        else:
            scheme = tensorrt.SCHEME if kind == tensorrt.KIND else kind
            run_compressor({"model": str(merged), "kind": scheme, "texts": str(texts), "out": str(made)}, scratch)
        for file in merged.iterdir():  # as it was learned: the tool's transformers might write it otherwise
            if not file.match(WEIGHTS) and file.name != "config.json":
                shutil.copyfile(file, made / file.name)
        if kind == tensorrt.KIND:
            tensorrt.finish(made)
        made.replace(place)


def logits_of(model: Path, base: Path, sequences: Sequence[Sequence[int]], scratch: Path) -> Path:
    """A file of the logits a checkpoint gives for each token but the last of each sequence, fp32."""
    texts, out = scratch / "sequences.json", scratch / f"{model.name}.f32"
    texts.write_text(json.dumps(sequences))
    if (model / onnx.MODEL).exists():
        onnx.write_logits(model, texts, out, scratch)
        return out
    run_compressor({"model": str(model), "dtype": computes_in(base), "texts": str(texts), "logits": str(out)}, scratch)
    return out


def run_compressor(words: dict[str, Any], scratch: Path) -> None:
    """`compressor.py` in its environment."""
    run_in(ENVIRONMENT, COMPRESSOR, words, scratch)


def _pieces(task: "Task", tokens: int) -> list[list[int]]:
    assert task.folders
    tokenizer = own_tokenizer(task)
    joined: list[int] = []
    for talk in own_talks(Path(task.folders["prepared"]), ("train.jsonl",), MOST_ROWS):
        if len(joined) >= tokens:
            break
        joined += tokenizer(rendered(tokenizer, talk), add_special_tokens=False).input_ids
    if not joined:
        raise StageFailed("convert.folders: the run has no conversations to calibrate on; set it to []")
    joined = joined[:tokens]
    return [joined[at : at + PIECE_TOKENS] for at in range(0, len(joined), PIECE_TOKENS)]
