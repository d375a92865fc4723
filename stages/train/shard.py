"""FSDP2: each process holds its share of every layer, of the 4-bit base too."""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from stages.errors import StageFailed


def settings(model: torch.nn.Module, *, checkpointing: bool) -> dict[str, Any]:
    """What TrainingArguments is told, to shard layer by layer."""
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and "Decoder" in type(m[0]).__name__)
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "transformer_layer_cls_to_wrap": [type(layers[0]).__name__],
            "state_dict_type": "FULL_STATE_DICT",  # an adapter is small
            "cpu_ram_efficient_loading": False,  # does not work with 4-bit parameters
            "reshard_after_forward": True,
            "activation_checkpointing": checkpointing,
        },
    }


def refuse_unsharded(model: torch.nn.Module) -> tuple[int, int]:
    """(bytes here, bytes in all) of the 4-bit base.

    Raises:
        StageFailed: a parameter is no DTensor, or packed into integers: it would lie in every process whole.
    """
    plain = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
    if plain:
        raise StageFailed(f"FSDP2: {len(plain)} parameters are not sharded, {plain[0]} first; this is a bug")
    packed: list[Any] = [parameter for parameter in model.parameters() if _is_packed(parameter)]
    if whole := [p.dtype for p in packed if not p.dtype.is_floating_point]:
        raise StageFailed(f"FSDP2: the 4-bit base is stored as {whole[0]}, which is not sharded; this is a bug")
    return _bytes(p.to_local() for p in packed), _bytes(packed)


def _is_packed(parameter: Any) -> bool:
    return isinstance(parameter, DTensor) and getattr(parameter.to_local(), "quant_state", None) is not None


def _bytes(parameters: Iterable[torch.Tensor]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def shard_on_cpu() -> None:
    """Let accelerate shard on CPUs, too: it takes FSDP for DDP there without a word."""
    initialize = AcceleratorState.__init__

    def patched(self: AcceleratorState, *words: Any, **more: Any) -> None:
        initialize(self, *words, **more)
        plugin = more.get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = plugin

    AcceleratorState.__init__ = patched
