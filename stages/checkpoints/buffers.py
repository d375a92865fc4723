"""Memory a thread uses again for every block: the kernel gives fresh pages slower than a merge fills them."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Room:
    """Tensors by what they are for. Each is overwritten the next time the same is asked for."""

    def __init__(self) -> None:
        self._held: dict[Any, torch.Tensor] = {}

    def tensor(self, purpose: Any, dtype: "torch.dtype", *shape: int) -> "torch.Tensor":
        """Of this type and shape, with whatever is in it."""
        import torch

        needed = math.prod(shape) * dtype.itemsize
        if purpose not in self._held or self._held[purpose].numel() < needed:
            self._held[purpose] = torch.empty(needed, dtype=torch.uint8)
        return self._held[purpose][:needed].view(dtype).view(shape)
