"""LoRA updates of single experts, merged into the fused tensors of Llama 4 checkpoints.

Training makes a Linear of each expert's projection (`stages/train/model/llama4_experts.py`). A checkpoint stores the
experts transposed in two stacks, `experts.gate_up_proj` [experts, in, 2 × out] and `experts.down_proj`
[experts, in, out].
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuneline.stages.checkpoints.safetensors_files import StoredTensor

if TYPE_CHECKING:
    import torch

_EXPERT = re.compile(r"(.+\.feed_forward\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
_FUSED = {"gate": ("gate_up_proj", 0), "up": ("gate_up_proj", 1), "down": ("down_proj", 0)}


@dataclass(frozen=True)
class LoraDelta:
    """scale × B A of one Linear, B [out, rank] and A [rank, in]."""

    a: StoredTensor
    b: StoredTensor
    scale: float


@dataclass(frozen=True)
class ExpertSlot:
    """The place of one expert's projection inside a fused tensor."""

    tensor: str
    expert: int
    part: int
    """0, or 1 for the second of two projections that are stored side by side."""


def locate_expert(name: str) -> ExpertSlot | None:
    """Return where the weight `name` of a single expert is stored, or None if it is not an expert's."""
    match = _EXPERT.fullmatch(name)
    if not match:
        return None
    projection, part = _FUSED[match[3]]
    return ExpertSlot(f"{match[1]}.{projection}", int(match[2]), part)


class FusedUpdate:
    """The LoRA deltas that an adapter adds to one fused tensor, by expert and part."""

    def __init__(self, name: str) -> None:
        self.deltas: dict[tuple[int, int], LoraDelta] = {}
        self._parts = 2 if name.endswith("gate_up_proj") else 1

    def mismatched_shape(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the shape that a delta needs, or None if all fit the base's `shape`."""
        for (expert, _), delta in self.deltas.items():
            needed = (max(expert + 1, shape[0]), delta.a.shape[1], delta.b.shape[0] * self._parts)
            if needed != shape:
                return needed
        return None

    def merge_rows(
        self, weight: "torch.Tensor", first: int, last: int, load: Callable[[StoredTensor], "torch.Tensor"]
    ) -> "torch.Tensor":
        """Return rows `first` to `last` (exclusive) of the merged tensor, counted over all experts, in fp32.

        `weight` holds these rows of the base; `load` returns a tensor of the adapter in fp32.
        """
        merged, height = weight.float(), next(iter(self.deltas.values())).a.shape[1]
        for (expert, part), delta in self.deltas.items():
            begin, end = max(first, expert * height), min(last, (expert + 1) * height)
            if begin >= end:
                continue
            rows, width = slice(begin - expert * height, end - expert * height), delta.b.shape[0]
            update = load(delta.b) @ load(delta.a)[:, rows] * delta.scale
            merged[begin - first : end - first, part * width : (part + 1) * width] += update.T
        return merged
