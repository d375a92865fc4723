"""Memory that it takes to load a base for training, before there is an optimizer or an activation.

Several processes read the files once: the main one has a tensor whole, in 16 or 32 bit, while it quantizes it and gives
each process its part (stages/train/distributed/shared_loading.py).
"""

from tuneline.configs.models import Shape
from tuneline.stages.plan.memory import CONTEXT_BYTES, Workload, estimate_unsharded_scales, estimate_weights


def estimate_loading(shape: Shape, work: Workload) -> float:
    """Return the peak in bytes on one GPU: its share of the base, and the largest tensor while it is read."""
    share = estimate_weights(shape, work) / (work.gpus if work.sharded else 1)
    context = 0.0 if work.on_cpu else CONTEXT_BYTES
    return share + estimate_unsharded_scales(shape, work) + _estimate_largest(shape, work) + context


def _estimate_largest(shape: Shape, work: Workload) -> float:
    """Return the size of the largest tensor; of experts fused in one, also of the matrices it is split into."""
    matrix = shape.hidden * max(shape.vocabulary, shape.ffn)
    fused = shape.experts * 2 * shape.hidden * shape.expert_ffn
    return max(matrix, 2 * fused) * work.compute_bytes
