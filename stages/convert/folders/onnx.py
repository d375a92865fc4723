"""An ONNX model of the merged checkpoint, by optimum in an environment of its own; asked there by onnxruntime."""

import json
from collections.abc import Sequence
from pathlib import Path

from tuneline.stages.convert.folders.environments import run_in

KIND = "ONNX"
ENVIRONMENT = "onnx"
EXPORTER = Path(__file__).with_name("onnx_exporter.py")
MODEL = "model.onnx"


def export(merged: Path, out: Path, scratch: Path) -> None:
    """`out/model.onnx` in fp32, and what transformers needs beside it but the tokenizer."""
    run_in(ENVIRONMENT, EXPORTER, {"model": str(merged), "out": str(out)}, scratch)


def write_logits(folder: Path, texts: Path, out: Path, scratch: Path) -> None:
    """What onnxruntime gives for each token but the last of each text, fp32, one after the other."""
    run_in(ENVIRONMENT, EXPORTER, {"model": str(folder), "texts": str(texts), "logits": str(out)}, scratch)


def answered(
    folder: Path, prompts: Sequence[Sequence[int]], stops: Sequence[int], tokens: int, scratch: Path
) -> list[list[int]]:
    """Each prompt with onnxruntime's greedy answer to it."""
    texts, out = scratch / "prompts.json", scratch / "answers.json"
    texts.write_text(json.dumps(prompts))
    words = {"model": str(folder), "texts": str(texts), "answers": str(out), "tokens": tokens, "stops": stops}
    run_in(ENVIRONMENT, EXPORTER, words, scratch)
    found: list[list[int]] = json.loads(out.read_text())
    return found
