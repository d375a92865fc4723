"""What a model is made of before it is trained: parameters in 4 bit, trained, and frozen in 16 or 32 bit."""

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tuneline.core.errors import StageFailed

if TYPE_CHECKING:
    import torch

STAYS = re.compile(r"(?:^|\.)(?:embed_tokens|lm_head|router)\.")
"""Matrices that a 4-bit model keeps in 16 bit: embeddings, and routers, which are small and decide much."""
SHOWN = 3


@dataclass(frozen=True)
class Count:
    """Parameters, not bytes; a 4-bit one counts as one."""

    quantized: int = 0
    trainable: int = 0
    frozen: int = 0

    @property
    def total(self) -> int:
        return self.quantized + self.trainable + self.frozen

    def __str__(self) -> str:
        return ", ".join(f"{number:,} {kind}" for kind, number in asdict(self).items() if number)


def count(model: "torch.nn.Module") -> Count:
    """Of all parameters, before any of them is sharded."""
    quantized = trainable = frozen = 0
    for parameter in model.parameters():
        if (packed := in_4_bit(parameter)) is not None:
            quantized += packed
        elif parameter.requires_grad:
            trainable += parameter.numel()
        else:
            frozen += parameter.numel()
    return Count(quantized, trainable, frozen)


def refuse_unquantized(model: "torch.nn.Module") -> None:
    """Raise StageFailed if a frozen matrix is not in 4 bit that should be: libraries silently skip non-Linears."""
    left = {
        name: parameter
        for name, parameter in model.named_parameters()
        if in_4_bit(parameter) is None and not parameter.requires_grad and parameter.ndim > 1 and not STAYS.search(name)
    }
    if left:
        gigabytes = sum(p.numel() * p.element_size() for p in left.values()) / 1e9
        shown = "\n".join(f"  {name} {list(p.shape)} {p.dtype}" for name, p in list(left.items())[:SHOWN])
        raise StageFailed(
            f"train.method is qlora, but {len(left)} matrices ({gigabytes:.3g} GB) are not in 4 bit:\n{shown}\n"
            "Training this would need their memory whole; use method lora, or another base"
        )


def in_4_bit(parameter: "torch.Tensor") -> int | None:
    """How many weights a bitsandbytes parameter stands for; None if it is no 4-bit one."""
    state = getattr(parameter, "quant_state", None)
    return None if state is None else int(state.shape.numel())
