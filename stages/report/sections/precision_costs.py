"""What each precision costs: figures usually quoted, beside those measured on this run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneline.stages.report.run_record import Row


@dataclass(frozen=True)
class QuotedCost:
    """The size and quality of a precision as usually quoted."""

    name: str
    size: str
    quality: str


QUOTED_COSTS: dict[QuotedCost, tuple[str, ...]] = {
    QuotedCost("16 bit", "100 %", "the reference"): ("F16", "BF16", "merged", "ONNX"),
    QuotedCost(
        "8 bit", "50–53 %", "FP8: lossless; INT8, with its activations: 1–3 % of accuracy; Q8_0: perplexity + 0.003"
    ): ("Q8_0", "FP8", "INT8", "LLM.int8", "TensorRT-LLM"),
    QuotedCost("5 and 6 bit", "36–41 %", "perplexity + 0.02 (Q6_K) and + 0.06 (Q5_K_M)"): ("Q6_K", "Q5_K_M"),
    QuotedCost("INT4, plain", "25–29 %", "perplexity + 0.47 (Q4_0)"): ("Q4_0", "NF4"),
    QuotedCost("INT4, K types", "31 %", "perplexity + 0.18 (Q4_K_M)"): ("Q4_K_M",),
    QuotedCost("AWQ, GPTQ", "25–27 %", "INT4 weights alone, calibrated: rivals 8 bit"): ("AWQ", "GPTQ"),
}
"""Quoted costs, and the file types each is about.

Accuracy: the abstract of Kurtić et al. 2024, https://arxiv.org/abs/2411.02355. Perplexity of Llama 3 8B: the help of
the pinned llama-quantize. Sizes: its README's for Llama 3.1 8B; elsewhere bits per weight over 16.
"""


def compare_precision_costs(converted: Mapping[str, Any]) -> list[Row]:
    """Return, for each precision the run has measured files of, the quoted cost and a row for each file.

    `converted` is the metrics of `convert`. `share` in a row is the file's size over that of the 16-bit file, or None.
    """
    fidelity, files = converted.get("fidelity", {}), {**converted.get("files", {}), **converted.get("folders", {})}
    reference_bytes = files.get("tuned-F16", {}).get("bytes")
    costs = []
    for quoted, kinds in QUOTED_COSTS.items():
        names = [name for name in fidelity if name.removeprefix("tuned-") in kinds]
        rows = [{"name": name, "bytes": files.get(name, {}).get("bytes"), **fidelity[name]} for name in names]
        for row in rows:
            row["share"] = row["bytes"] / reference_bytes if row["bytes"] and reference_bytes else None
        if rows:
            costs.append({"quoted": quoted, "rows": rows})
    return costs
