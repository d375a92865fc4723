"""FSDP2: each process holds its share of every layer, of the 4-bit base too."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from bitsandbytes.nn import Linear4bit
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuneline.core.errors import StageFailed
from tuneline.core.events import Events


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


class Shares(TrainerCallback):
    """Once the model is sharded, tells which share of the 4-bit base each process holds."""

    def __init__(self, events: Events) -> None:
        self.events = events

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        here, whole = refuse_unsharded(given["model"])
        shares: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(shares, 100 * here / max(whole, 1))
        told = ", ".join(f"{share:.1f} %" for share in shares)
        self.events.emit("note", text=f"FSDP2: of the 4-bit base, {whole:,} bytes, each process holds {told}")


def refuse_unsharded(model: torch.nn.Module) -> tuple[int, int]:
    """(bytes here, bytes in all) of the 4-bit base.

    Raises:
        StageFailed: a parameter is no DTensor, or packed into integers: it would lie in every process whole.
    """
    plain = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
    if plain:
        raise StageFailed(f"FSDP2: {len(plain)} parameters are not sharded, {plain[0]} first; this is a bug")
    packed: list[Any] = [module.weight for module in model.modules() if isinstance(module, Linear4bit)]
    if whole := [p.dtype for p in packed if not p.dtype.is_floating_point]:
        raise StageFailed(f"FSDP2: the 4-bit base is stored as {whole[0]}, which is not sharded; this is a bug")
    return _bytes(p.to_local() for p in packed), _bytes(packed)


def _bytes(parameters: Iterable[torch.Tensor]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def shard_on_cpu() -> None:
    """Let accelerate shard on CPUs, too: it takes FSDP for DDP there without a word."""
    initialize = AcceleratorState.__init__

    def patched(self: AcceleratorState, *words: Any, **more: Any) -> None:
        initialize(self, *words, **more)
        plugin = more.get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            if self._mixed_precision != "no":
                plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = plugin

    AcceleratorState.__init__ = patched
