"""What people say a precision costs, beside what it cost on this run; and every check of `verify.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Quoted:
    """A trade-off as it is usually told."""

    name: str
    size: str
    quality: str


SIXTEEN = Quoted("16 bit", "100 %", "the reference")
EIGHT = Quoted(
    "8 bit", "50–53 %", "FP8: lossless; INT8, with its activations: 1–3 % of accuracy; Q8_0: perplexity + 0.003"
)
FIVE_SIX = Quoted("5 and 6 bit", "36–41 %", "perplexity + 0.02 (Q6_K) and + 0.06 (Q5_K_M)")
FOUR = Quoted("INT4, plain", "25–29 %", "perplexity + 0.47 (Q4_0)")
FOUR_CHOSEN = Quoted("INT4, K types", "31 %", "perplexity + 0.18 (Q4_K_M)")
FOUR_MEASURED = Quoted("AWQ, GPTQ", "25–27 %", "INT4 weights alone, calibrated: rivals 8 bit")
CLASSES: dict[Quoted, tuple[str, ...]] = {
    SIXTEEN: ("F16", "BF16", "merged", "ONNX"),
    EIGHT: ("Q8_0", "FP8", "INT8", "LLM.int8", "TensorRT-LLM"),
    FIVE_SIX: ("Q6_K", "Q5_K_M"),
    FOUR: ("Q4_0", "NF4"),
    FOUR_CHOSEN: ("Q4_K_M",),
    FOUR_MEASURED: ("AWQ", "GPTQ"),
}
"""Accuracy: the abstract of Kurtić et al. 2024, https://arxiv.org/abs/2411.02355. Perplexity of Llama 3 8B: the help of
the pinned llama-quantize. Sizes: its README's for Llama 3.1 8B; elsewhere bits a weight over 16."""


def tradeoffs(converted: Mapping[str, Any]) -> list[Row]:
    """For each class the run has a file of: what is quoted, and the measured files, from convert's metrics."""
    measured, files = converted.get("fidelity", {}), {**converted.get("files", {}), **converted.get("folders", {})}
    sixteen = files.get("tuned-F16", {}).get("bytes")
    found = []
    for quoted, kinds in CLASSES.items():
        names = [name for name in measured if name.removeprefix("tuned-") in kinds]
        rows = [{"name": name, "bytes": files.get(name, {}).get("bytes"), **measured[name]} for name in names]
        for row in rows:
            row["share"] = row["bytes"] / sixteen if row["bytes"] and sixteen else None
        if rows:
            found.append({"quoted": quoted, "rows": rows})
    return found


def checks(folder: Path) -> list[Row]:
    """A row a check: its files, how many passed, and what was compared in the first that failed, else in the first."""
    try:
        told: list[Row] = json.loads((folder / "verify.json").read_text())["checks"]
    except (OSError, ValueError, KeyError):
        return []
    found = []
    for name in dict.fromkeys(check["check"] for check in told):
        same = [check for check in told if check["check"] == name]
        failed = [check for check in same if not check["passed"]]
        detail = (failed or same)[0]
        found.append(
            {"name": name, "files": len(same), "passed": len(same) - len(failed)}
            | {"file": detail["file"], "detail": detail["detail"]}
        )
    return found
