"""FLOPs of a training step per token, counted from a model's shape.

The forward pass takes 2 FLOPs per weight and token. The backward pass takes as much for the activations, and as much
again for weights that are trained. Attention comes on top, half of it masked; recomputation is not counted.
Source: Narayanan et al., arXiv 2104.04473, appendix; Hu et al., arXiv 2106.09685.
"""

from tuneline.configs.models import Shape
from tuneline.stages.plan.memory import Workload, count_trained_parameters

FROZEN_FLOPS, TRAINED_FLOPS = 4, 6
"""Per weight and token."""
ATTENTION_FLOPS = 6
"""Per layer, unit of attention width, and token of context: 2 products × 2 FLOPs × 3 (forward, and two of the backward
pass) ÷ 2 for the causal mask."""


def estimate_flops_per_token(shape: Shape, work: Workload) -> float:
    """Return the FLOPs of one training step per token; `work.tokens` is the length of every row."""
    embedding_lookup = 0 if shape.tied else shape.vocabulary * shape.hidden  # takes no FLOPs
    multiplied = shape.active - embedding_lookup
    attention = float(ATTENTION_FLOPS * shape.layers * shape.heads * shape.head_dim * work.tokens)
    if work.method == "full":
        return TRAINED_FLOPS * multiplied + attention
    return FROZEN_FLOPS * multiplied + TRAINED_FLOPS * count_trained_parameters(shape, work) + attention
