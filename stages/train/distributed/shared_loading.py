"""Loading a base in several processes: the main one reads and quantizes, tensor by tensor, and gives each its part.

Under FSDP2 a process keeps its shard of each matrix, so that a base is loaded that no GPU and no process could hold;
under DDP each keeps the whole. Either way the files are read once, and each matrix is quantized once.

A shard takes the place of its parameter until `fsdp2.shard_loaded_model` makes a DTensor of it; `full_shape` is then
the parameter's own. Works through two functions of transformers 5.23 (core_model_loading.py): one reads a tensor, the
other sets a parameter.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Params4bit
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from transformers import core_model_loading

from tuneline.core.errors import StageFailed
from tuneline.stages.train.distributed.process_group import broadcast_from_main, get_device, is_main_process

SEQUENTIAL = "HF_DEACTIVATE_ASYNC_LOAD"
"""Environment variable of transformers: tensors are read one by one, not all ahead by threads."""


class ShardedParameter(nn.Parameter):
    """This process's rows of a parameter; unlike nn.Parameter, a deep copy keeps its `full_shape`."""

    full_shape: torch.Size

    def __deepcopy__(self, memo: dict[int, Any]) -> "ShardedParameter":
        copied = ShardedParameter(self.data.clone(), self.requires_grad)
        copied.full_shape = self.full_shape
        memo[id(self)] = copied
        return copied


@contextlib.contextmanager
def share_reading(*, sharded: bool, whole: str) -> Iterator[None]:
    """Within this context, `from_pretrained` reads in the main process alone; all processes must call it alike.

    `sharded` is whether a process keeps shards, on its own device whatever the `device_map`, or the whole. Matrices
    whose name ends in `whole` are never sharded, nor are vectors.
    """
    distributor = _Distributor(sharded=sharded, whole=whole)
    with (
        patch.dict(os.environ, {SEQUENTIAL: "1"}),
        patch.object(core_model_loading, "_materialize_copy", distributor.read),
        patch.object(core_model_loading, "set_param_for_module", distributor.set_parameter),
    ):
        yield


@dataclass(frozen=True)
class _Header:
    """What the other processes must know of a tensor before they receive it."""

    name: str
    shape: torch.Size
    dtype: torch.dtype
    quant_state: dict[str, Any] | None
    """In the form in which bitsandbytes stores it; None if the tensor is not in 4 bit."""


class _Distributor:
    def __init__(self, *, sharded: bool, whole: str) -> None:
        self.sharded, self.whole, self.device = sharded, whole, get_device()
        self.mesh = init_device_mesh(self.device.type, (dist.get_world_size(),))
        self._read, self._set_whole = core_model_loading._materialize_copy, core_model_loading.set_param_for_module

    def read(self, tensor: Any, device: Any = None, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return the tensor in the main process, and in the others one without data."""
        if is_main_process():
            return self._read(tensor, self.device if self.sharded else device, dtype)
        assert dtype  # the caller states it
        return torch.empty(tensor.get_shape(), dtype=dtype, device="meta")

    def set_parameter(self, model: Any, name: str, value: Any, loading_info: Any, quantizer: Any) -> None:
        """Give each process its part of `value`, which only the main process has."""
        header: _Header = broadcast_from_main(lambda: _describe(name, value))
        if header.name != name:
            raise StageFailed(f"{name}: the main process could not read {name} and continued with {header.name}")
        full = value.data if is_main_process() else torch.empty(header.shape, dtype=header.dtype, device=self.device)
        module, _, attribute = name.rpartition(".")
        owner, shape = model.get_submodule(module), getattr(model.get_submodule(module), attribute).shape
        if header.quant_state is None and header.shape != shape:  # as transformers reports it
            loading_info.mismatched_keys.add((name, header.shape, shape))
            return
        part = self._share(name, full)
        if header.quant_state is not None:
            parameter: Any = _make_4_bit(owner, part, value, header.quant_state)
        elif part is not full:
            parameter = ShardedParameter(part, requires_grad=part.is_floating_point())
        else:
            self._set_whole(model, name, part, loading_info, quantizer)
            return
        parameter.full_shape, parameter._is_hf_initialized = header.shape, True
        loading_info.missing_keys.discard(name)
        setattr(owner, attribute, parameter)

    def _share(self, name: str, full: torch.Tensor) -> torch.Tensor:
        """Return this process's rows of a matrix, or the whole."""
        if self.sharded and full.ndim > 1 and not name.endswith(self.whole):
            return distribute_tensor(full.contiguous(), self.mesh, [Shard(0)]).to_local()
        dist.broadcast(full, src=0)
        return full


def _describe(name: str, value: torch.Tensor) -> _Header:
    state: Any = getattr(value, "quant_state", None)
    stored = {key: part.cpu() for key, part in state.as_dict(packed=True).items()} if state else None
    return _Header(name, value.shape, value.dtype, stored)


def _make_4_bit(owner: Any, part: torch.Tensor, value: Any, stored: dict[str, Any]) -> Params4bit:
    state = value.quant_state if is_main_process() else QuantState.from_dict(stored, part.device)
    owner.quant_state = state
    settings = owner.weight.__dict__ | {"quant_state": state, "module": owner, "bnb_quantized": True}
    return Params4bit(part, requires_grad=False, **settings)
