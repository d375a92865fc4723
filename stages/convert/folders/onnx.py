"""An ONNX model of the merged checkpoint, exported by optimum and run by onnxruntime in an environment of its own."""

import json
from collections.abc import Sequence
from pathlib import Path

from tuneline.stages.convert.folders.environments import run_in_environment

KIND = "ONNX"
ENVIRONMENT = "onnx"
EXPORTER = Path(__file__).with_name("onnx_exporter.py")
MODEL = "model.onnx"


def export_onnx(merged: Path, out: Path, scratch: Path) -> None:
    """Write `out/model.onnx` in fp32, and what transformers needs beside it except the tokenizer."""
    run_in_environment(ENVIRONMENT, EXPORTER, {"model": str(merged), "out": str(out)}, scratch)


def compute_onnx_logits(folder: Path, texts: Path, out: Path, scratch: Path) -> None:
    """Write the logits for each token but the last of each text to `out`, fp32, one text after the other.

    `texts` is a JSON file: a list of token ids for each text.
    """
    arguments = {"model": str(folder), "texts": str(texts), "logits": str(out)}
    run_in_environment(ENVIRONMENT, EXPORTER, arguments, scratch)


def generate_answers(
    folder: Path, prompts: Sequence[Sequence[int]], stops: Sequence[int], tokens: int, scratch: Path
) -> list[list[int]]:
    """Return each prompt with onnxruntime's greedy answer, of up to `tokens` tokens."""
    texts, out = scratch / "prompts.json", scratch / "answers.json"
    texts.write_text(json.dumps(prompts))
    arguments = {"model": str(folder), "texts": str(texts), "answers": str(out), "tokens": tokens, "stops": stops}
    run_in_environment(ENVIRONMENT, EXPORTER, arguments, scratch)
    answers: list[list[int]] = json.loads(out.read_text())
    return answers
