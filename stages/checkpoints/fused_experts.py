"""Adapters of single experts, folded into the fused tensors that Llama 4's checkpoints keep them in.

Training makes a Linear of each expert's projection (`stages/train/model/llama4_experts.py`); a checkpoint holds,
transposed and side by side, `experts.gate_up_proj` [experts, in, 2 × out] and `experts.down_proj` [experts, in, out].
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuneline.stages.checkpoints.safetensors_files import Stored

if TYPE_CHECKING:
    import torch

_EXPERT = re.compile(r"(.+\.feed_forward\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
_FUSED = {"gate": ("gate_up_proj", 0), "up": ("gate_up_proj", 1), "down": ("down_proj", 0)}


@dataclass(frozen=True)
class Delta:
    """scale × B A of one Linear, B [out, rank] and A [rank, in]."""

    a: Stored
    b: Stored
    scale: float


def fused_name(name: str) -> tuple[str, int, int] | None:
    """The fused tensor an expert's weight lies in, which expert it is, and which of the parts side by side."""
    found = _EXPERT.fullmatch(name)
    if not found:
        return None
    fused, place = _FUSED[found[3]]
    return f"{found[1]}.{fused}", int(found[2]), place


class Fused:
    """What an adapter adds to one fused tensor."""

    def __init__(self, name: str) -> None:
        self.deltas: dict[tuple[int, int], Delta] = {}
        self._parts = 2 if name.endswith("gate_up_proj") else 1

    def misfit(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape these deltas would need, if it is not the base's `shape`."""
        for (expert, _), delta in self.deltas.items():
            needed = (max(expert + 1, shape[0]), delta.a.shape[1], delta.b.shape[0] * self._parts)
            if needed != shape:
                return needed
        return None

    def merged(
        self, weight: "torch.Tensor", first: int, last: int, read: Callable[[Stored], "torch.Tensor"]
    ) -> "torch.Tensor":
        """Rows `first` up to `last` of the fused tensor, seen as rows of its last dimension."""
        merged, height = weight.float(), next(iter(self.deltas.values())).a.shape[1]
        for (expert, place), delta in self.deltas.items():
            begin, end = max(first, expert * height), min(last, (expert + 1) * height)
            if begin >= end:
                continue
            inside, width = slice(begin - expert * height, end - expert * height), delta.b.shape[0]
            added = read(delta.b) @ read(delta.a)[:, inside] * delta.scale
            merged[begin - first : end - first, place * width : (place + 1) * width] += added.T
        return merged.to(weight.dtype)
