"""Parameters of a model before training: in 4 bit, trained, and frozen in 16 or 32 bit."""

import re
from dataclasses import asdict, astuple, dataclass
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

    @property
    def total(self) -> int:
        return sum(astuple(self))

    def __str__(self) -> str:
        return ", ".join(f"{number:,} {kind}" for kind, number in asdict(self).items() if number)


def count_parameters(model: "torch.nn.Module") -> ParameterCount:
    """Count all parameters, of which this process may hold shards; call this before FSDP2 has the model."""
    quantized = trainable = frozen = 0
    for parameter in model.parameters():
        weights = count_weights(parameter)
        if count_4_bit(parameter) is not None:
            quantized += weights
        elif parameter.requires_grad:
            trainable += weights
        else:
            frozen += weights
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
        gigabytes = sum(count_weights(p) * p.element_size() for p in unquantized.values()) / 1e9
        shown = "\n".join(f"  {name} {list(p.shape)} {p.dtype}" for name, p in list(unquantized.items())[:MAX_SHOWN])
        raise StageFailed(
            f"train.method is qlora, but {len(unquantized)} matrices ({gigabytes:.3g} GB) are not in 4 bit:\n{shown}\n"
            "They would need their full memory; use method lora, or another base"
        )


def count_weights(parameter: "torch.Tensor") -> int:
    """Return the number of weights of a parameter, in 4 bit or not, whole or loaded as a shard."""
    full_shape = getattr(parameter, "full_shape", parameter.shape)
    return count_4_bit(parameter) or int(full_shape.numel())


def count_4_bit(parameter: "torch.Tensor") -> int | None:
    """Return the number of weights packed in a bitsandbytes parameter; None if it is not a 4-bit one."""
    state = getattr(parameter, "quant_state", None)
    return None if state is None else int(state.shape.numel())
