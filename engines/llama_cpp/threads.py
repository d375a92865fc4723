"""How many threads llama.cpp should use for a file."""

from pathlib import Path

ONE_THREAD_BYTES = 50_000_000
"""A smaller model gets one thread: threads meet at every matrix, and where a core is busy with something else each
meeting waits for the scheduler (0.2 answers a second instead of 30, measured with the tiny base)."""


def limit_threads(gguf: Path, threads: int) -> int:
    """Return `threads`, or 1 for a file of less than `ONE_THREAD_BYTES`."""
    return 1 if gguf.stat().st_size < ONE_THREAD_BYTES else threads
