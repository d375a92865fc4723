"""The processes that train together: how many there are, which one this is, and values they agree on."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist

Value = TypeVar("Value")
TIMEOUT = timedelta(minutes=30)
"""After which a process that waits for another one fails, as in transformers (`ddp_timeout`)."""


def join_process_group() -> None:
    """Join the processes that torchrun started, with NCCL on GPUs and gloo on CPUs; accelerate uses the same group."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)


def get_world_size() -> int:
    """Return how many processes train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def get_device() -> torch.device:
    """Return where this process computes: its GPU, set by the worker, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def is_main_process() -> bool:
    """Return whether this is rank 0, the process that emits events and writes files."""
    return not dist.is_initialized() or dist.get_rank() == 0


def any_process(flag: bool) -> bool:
    """Return, in every process, whether `flag` is true in at least one of them."""
    if get_world_size() == 1:
        return flag
    reduced = torch.tensor([int(flag)], device=get_device() if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(reduced, op=dist.ReduceOp.MAX)
    return bool(reduced.item())


def broadcast_from_main(compute: Callable[[], Value]) -> Value:
    """Call `compute` in the main process alone and return its value in every process."""
    if get_world_size() == 1:
        return compute()
    values = [compute() if is_main_process() else None]
    dist.broadcast_object_list(values, src=0)
    return cast(Value, values[0])
