"""FLOPs of a training step on the loaded model, and the peak of the GPU it runs on.

The model counterpart of `stages/plan/step_flops.py`, which counts from a shape and documents the formula.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tuneline.configs.hardware import hardware
from tuneline.stages.plan.step_flops import ATTENTION_FLOPS, FROZEN_FLOPS, TRAINED_FLOPS
from tuneline.stages.train.model.parameter_count import count_weights

if TYPE_CHECKING:
    import torch

MEASURED_GPUS = ("H100", "H200", "B200", "A100", "L40S", "L4")
"""Words of a device's name whose peak is that of the chip in configs/hardware.yaml."""
OTHER_CARDS = {("H100", "PCIe"): 756e12, ("H100", "NVL"): 835e12, ("H200", "NVL"): 836e12, ("L40",): 181e12}
"""Cards by the words of their name, with another peak than the chip: NVIDIA's datasheets, dense bf16, FLOP/s."""


def count_flops_per_token(model: "torch.nn.Module", config: Any, lengths: Sequence[int]) -> float:
    """Return the FLOPs of one training step per token, for rows of these lengths in tokens."""
    config = config.get_text_config()
    routed_share = getattr(config, "num_experts_per_tok", 1) / getattr(config, "num_local_experts", 1)
    total = 0.0
    for name, parameter in model.named_parameters():
        if (
            parameter.ndim < 2
            or ("embed_tokens" in name and not config.tie_word_embeddings)
            or "original_module" in name
        ):
            continue  # an embedding lookup takes no FLOPs
        weights = count_weights(parameter)
        share = routed_share if ".experts." in name else 1.0
        total += weights * share * (TRAINED_FLOPS if parameter.requires_grad else FROZEN_FLOPS)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    context = sum(length * length for length in lengths) / max(sum(lengths), 1)
    return float(total + ATTENTION_FLOPS * config.num_hidden_layers * width * context)


def read_peak_flops() -> float | None:
    """Return the dense bf16 peak of this process's GPU in FLOP/s; None without a GPU, or if its kind is not known."""
    import torch

    if not torch.cuda.is_available():
        return None
    words = set(re.split(r"[\s-]+", torch.cuda.get_device_name()))
    if other := [peak for card, peak in OTHER_CARDS.items() if words.issuperset(card)]:
        return other[0]
    kind = next((kind for kind in MEASURED_GPUS if kind in words), None)
    return None if kind is None else _read_chip_flops(kind)


def _read_chip_flops(kind: str) -> float:
    """Return the peak of the kind in configs/hardware.yaml, whatever its memory: `A100-40GB` is an `A100`."""
    return next(chip.tflops for name, chip in hardware().chips.items() if name.partition("-")[0] == kind) * 1e12
