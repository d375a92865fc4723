"""Parameters of a model before training: in 4 bit, trained, and frozen in 16 or 32 bit."""

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tuneline.core.errors import StageFailed

if TYPE_CHECKING:
    import torch

UNQUANTIZED = re.compile(r"(?:^|\.)(?:embed_tokens|lm_head|router)\.")
"""Matrices that a 4-bit model keeps in 16 bit: embeddings, and routers, which are small and sensitive."""
MAX_SHOWN = 3


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters, not bytes; a 4-bit parameter counts as one."""

    quantized: int = 0
    trainable: int = 0
    frozen: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{number:,} {kind}" for kind, number in asdict(self).items() if number)


def count_parameters(model: "torch.nn.Module") -> ParameterCount:
    """Count all parameters; call this before the model is sharded."""
    quantized = trainable = frozen = 0
    for parameter in model.parameters():
        if (packed := count_4_bit(parameter)) is not None:
            quantized += packed
        elif parameter.requires_grad:
            trainable += parameter.numel()
        else:
            frozen += parameter.numel()
    return ParameterCount(quantized, trainable, frozen)


def refuse_unquantized(model: "torch.nn.Module") -> None:
    """Raise StageFailed if a frozen matrix should be in 4 bit and is not: libraries silently skip non-Linears."""
    unquantized = {
        name: parameter
        for name, parameter in model.named_parameters()
        if count_4_bit(parameter) is None
        and not parameter.requires_grad
        and parameter.ndim > 1
        and not UNQUANTIZED.search(name)
    }
    if unquantized:
        gigabytes = sum(p.numel() * p.element_size() for p in unquantized.values()) / 1e9
        shown = "\n".join(f"  {name} {list(p.shape)} {p.dtype}" for name, p in list(unquantized.items())[:MAX_SHOWN])
        raise StageFailed(
            f"train.method is qlora, but {len(unquantized)} matrices ({gigabytes:.3g} GB) are not in 4 bit:\n{shown}\n"
            "Training this would need their memory whole; use method lora, or another base"
        )


def count_4_bit(parameter: "torch.Tensor") -> int | None:
    """Return the number of weights packed in a bitsandbytes parameter; None if it is not a 4-bit one."""
    state = getattr(parameter, "quant_state", None)
    return None if state is None else int(state.shape.numel())
