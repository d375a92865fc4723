"""How many threads llama.cpp should use for a file."""

from pathlib import Path

from tuneline.core.machine import usable_cores

ONE_THREAD_BYTES = 50_000_000
"""A smaller model gets one thread: threads meet at every matrix, and where a core is busy with something else each
meeting waits for the scheduler (0.2 answers a second instead of 30, measured with the tiny base)."""


def limit_threads(gguf: Path, threads: int) -> int:
    """Return `threads`, but no more than the cores this process may use, and 1 below `ONE_THREAD_BYTES`.

    A container that uses more threads than it pays for cores is throttled.
    """
    return 1 if gguf.stat().st_size < ONE_THREAD_BYTES else min(threads, usable_cores())
