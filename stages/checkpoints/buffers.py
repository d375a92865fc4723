"""Memory that a thread reuses for every block: the kernel provides fresh pages slower than a merge fills them."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class BufferPool:
    """Reusable tensors by purpose. A tensor is overwritten when its purpose is requested again."""

    def __init__(self) -> None:
        self._buffers: dict[Any, torch.Tensor] = {}

    def tensor(self, purpose: Any, dtype: "torch.dtype", *shape: int) -> "torch.Tensor":
        """Return an uninitialized tensor of this type and shape from the buffer for `purpose`."""
        import torch

        size = math.prod(shape) * dtype.itemsize
        if purpose not in self._buffers or self._buffers[purpose].numel() < size:
            self._buffers[purpose] = torch.empty(size, dtype=torch.uint8)
        return self._buffers[purpose][:size].view(dtype).view(shape)
