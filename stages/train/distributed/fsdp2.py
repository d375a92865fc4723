"""FSDP2: each process holds a shard of every layer, including the 4-bit base."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from accelerate import accelerator as accelerate_accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, fsdp2_prepare_model
from bitsandbytes.nn import Linear4bit
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuneline.core.errors import StageFailed
from tuneline.core.events import Events


def build_fsdp_arguments(model: nn.Module, *, checkpointing: bool) -> dict[str, Any]:
    """Return the arguments of TrainingArguments that shard `model` layer by layer."""
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "transformer_layer_cls_to_wrap": [type(_find_layers(model)[0]).__name__],
            "state_dict_type": "FULL_STATE_DICT",  # an adapter is small
            "cpu_ram_efficient_loading": False,  # does not work with 4-bit parameters; shared_loading.py does
            "reshard_after_forward": True,
            "activation_checkpointing": checkpointing,
        },
    }


def _find_layers(model: nn.Module) -> nn.ModuleList:
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and "Decoder" in type(m[0]).__name__)


@dataclass(frozen=True)
class QuantizedBytes:
    """Size of the 4-bit base."""

    local: int
    """In this process."""
    total: int
    """In all processes together."""


class ShardReport(TrainerCallback):
    """Notes, once the model is sharded, which share of the 4-bit base each process holds."""

    def __init__(self, events: Events) -> None:
        self.events = events

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any
    ) -> None:
        quantized = refuse_unsharded(context["model"])
        shares: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(shares, 100 * quantized.local / max(quantized.total, 1))
        listed = ", ".join(f"{share:.1f} %" for share in shares)
        text = f"FSDP2: of the 4-bit base, {quantized.total:,} bytes, each process holds {listed}"
        self.events.emit("note", text=text)


def refuse_unsharded(model: nn.Module) -> QuantizedBytes:
    """Return how much of the 4-bit base this process holds.

    Raises:
        StageFailed: a parameter is not a DTensor, or 4-bit weights are stored as integers, which FSDP2 does not shard:
            every process would hold them whole.
    """
    unsharded = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
    if unsharded:
        raise StageFailed(f"FSDP2: {len(unsharded)} parameters are not sharded, {unsharded[0]} first; this is a bug")
    packed: list[Any] = [module.weight for module in model.modules() if isinstance(module, Linear4bit)]
    if integers := [p.dtype for p in packed if not p.dtype.is_floating_point]:
        raise StageFailed(f"FSDP2: the 4-bit base is stored as {integers[0]}, which is not sharded; this is a bug")
    return QuantizedBytes(local=_count_bytes(p.to_local() for p in packed), total=_count_bytes(packed))


def _count_bytes(parameters: Iterable[torch.Tensor]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def adapt_accelerate(*, on_cpu: bool) -> None:
    """Patch accelerate 1.15 in this process: sharded loading, checkpointing with dropout, and FSDP on CPUs."""
    accelerate_accelerator.fsdp2_prepare_model = shard_loaded_model
    accelerate_accelerator.fsdp2_apply_ac = checkpoint_layers
    if on_cpu:
        _enable_sharding_on_cpu()


def checkpoint_layers(_: Any, model: nn.Module) -> nn.Module:
    """Recompute the model's layers in the backward pass, with the dropout masks of the forward pass.

    accelerate's own function does not keep the random state: with dropout, gradients would be those of other masks.
    """
    names = [name for name, module in model.named_modules() if module in set(_find_layers(model))]
    for name in names:
        model.set_submodule(name, checkpoint_wrapper(model.get_submodule(name), preserve_rng_state=True))
    return model


def shard_loaded_model(accelerator: Any, model: nn.Module) -> nn.Module:
    """Shard `model` as accelerate does; parameters that were loaded as shards keep the memory they have.

    FSDP2 divides whole parameters. For those of which this process has a shard (`shared_loading.py`) it gets empty
    ones on the meta device, and then the shard.
    """
    shards = _replace_by_meta(model)
    model = fsdp2_prepare_model(accelerator, model)
    sharded: dict[int, nn.Parameter] = {}  # tied modules share one parameter
    for module, name, shard in shards:
        empty: Any = module._parameters[name]
        if id(empty) not in sharded:
            layout = {"device_mesh": empty.device_mesh, "placements": empty.placements, "run_check": False}
            whole = DTensor.from_local(shard.detach(), **layout, shape=empty.shape, stride=empty.stride())
            sharded[id(empty)] = nn.Parameter(whole, requires_grad=shard.requires_grad)
        module._parameters[name] = sharded[id(empty)]
    return model


def _replace_by_meta(model: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    shards, empty = [], dict[int, nn.Parameter]()
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and (full_shape := getattr(parameter, "full_shape", None)) is not None:
                whole = torch.empty(full_shape, dtype=parameter.dtype, device="meta")
                empty.setdefault(id(parameter), nn.Parameter(whole, requires_grad=parameter.requires_grad))
                shards.append((module, name, parameter))
    for module, name, parameter in shards:
        module._parameters[name] = empty[id(parameter)]
    return shards


def _enable_sharding_on_cpu() -> None:
    """Patch accelerate to use FSDP on CPUs, where it would silently use DDP."""
    initialize = AcceleratorState.__init__

    def patched(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
        initialize(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            if self._mixed_precision != "no":
                plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = plugin

    AcceleratorState.__init__ = patched
