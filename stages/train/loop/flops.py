"""How much arithmetic a token costs, and how much of a GPU's peak that is.

Forward 2 FLOPs a weight and token; backward as much for the activations, and as much again for weights that are
trained: 4 for a frozen weight, 6 for a trained one. Attention beside it, half of it masked; no recomputation.
Source: Narayanan et al., arXiv 2104.04473, appendix; Hu et al., arXiv 2106.09685.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tuneline.stages.train.model.parameter_count import in_4_bit

if TYPE_CHECKING:
    import torch

PEAKS = {"H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bf16 FLOP/s by a part of the device's name; NVIDIA's data sheets."""
FROZEN, TRAINED = 4, 6
ATTENTION = 6
"""2 products × 2 FLOPs × 3 (forward, and two of the backward) ÷ 2 for the causal mask."""


def flops_per_token(model: "torch.nn.Module", config: Any, lengths: Sequence[int]) -> float:
    """Of one training step over rows of these lengths, for each of their tokens."""
    config = config.get_text_config()
    used = getattr(config, "num_experts_per_tok", 1) / getattr(config, "num_local_experts", 1)
    total = 0.0
    for name, parameter in model.named_parameters():
        if (
            parameter.ndim < 2
            or ("embed_tokens" in name and not config.tie_word_embeddings)
            or "original_module" in name
        ):
            continue  # a look-up costs nothing
        weights = in_4_bit(parameter) or parameter.numel()
        share = used if ".experts." in name else 1.0
        total += weights * share * (TRAINED if parameter.requires_grad else FROZEN)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    context = sum(length * length for length in lengths) / max(sum(lengths), 1)
    return float(total + ATTENTION * config.num_hidden_layers * width * context)


def peak_flops() -> float | None:
    """FLOP/s of this process's GPU; None without one, and for a kind that is not known."""
    import torch

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    # The longest name first: an L40S is no L4.
    return next((peak for kind, peak in sorted(PEAKS.items(), key=lambda kv: -len(kv[0])) if kind in name), None)
