"""What the C library does with memory that was freed, on a CPU."""

import ctypes

M_MMAP_THRESHOLD = -3
"""malloc.h of glibc."""
RETURNED_BYTES = 1 << 20
LARGE = 100_000_000
"""Parameters from which a model's tensors are so large that asking the system for each costs nothing beside them."""


def return_freed_memory(parameters: int) -> bool:
    """Give blocks of a megabyte and more back to the system once they are freed; whether that is so now.

    Left alone, glibc keeps those up to 32 MB in a heap that the next ones do not fit into: a LoRA of 28 M parameters
    took 755 MB instead of 472. Small models are left alone: there the system's pages would cost time.
    """
    if parameters < LARGE:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, RETURNED_BYTES))
