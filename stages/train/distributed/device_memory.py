"""Memory of this process and its GPU. torch is imported where it is needed."""

import gc
import sys


def read_gpu_bytes() -> int | None:
    """Return the total memory of the first GPU; None without a GPU."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def read_peak_gpu_gb() -> float:
    """Return the most memory torch has allocated on this process's GPU, in 10^9 bytes; 0 without a GPU."""
    import torch

    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0


def read_peak_process_gb() -> float:
    """Return the most memory this process has held, in 10^9 bytes, including the interpreter and its libraries."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def free_cached_memory() -> None:
    """Collect garbage, return torch's cached GPU memory to the driver, and restart its peak counter."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class OutOfMemory(Exception):
    """A GPU, or this machine, has no memory left; the message says how much was in use."""


def describe_out_of_memory(error: BaseException) -> str | None:
    """Return how much memory was in use if `error` means that none is left, else None.

    torch has a class for this on GPUs; on CPUs only the message tells.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return f"{read_peak_gpu_gb():.1f} GB in use at most"
    return "out of memory on this machine" if "can't allocate memory" in str(error) else None
