"""Worker processes that render and tokenize rows while the main process reads and checks the next ones."""

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from tuneline.configs.catalogue import Catalogue, Tool
from tuneline.core.child_processes import bind_to_parent
from tuneline.stages.prepare.rendering.renderer import Renderer, RowMeasure

WORKERS = 4
"""Most worker processes. Reading and checking keeps no more of them busy."""
FEWEST_ROWS = 256
"""Rows of the first batch from which workers are started. A smaller first batch is all the data."""
_renderer: Renderer
_tools: dict[str, Tool]
"""In a worker process: what it renders with, and the tools it was sent."""


class WorkerPool:
    """Measures batches of rows in worker processes, or in a thread. `tools` may grow between two batches."""

    def __init__(self, renderer: Renderer, tools: dict[str, Tool]) -> None:
        self._renderer, self._tools = renderer, tools
        self._thread: Executor = ThreadPoolExecutor(1)
        self._workers: list[Executor] = []
        self._tools_sent: list[int] = []
        self._batches = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for executor in (self._thread, *self._workers):
            executor.shutdown(cancel_futures=True)

    def measure(self, lines: Sequence[bytes]) -> Callable[[], list[RowMeasure]]:
        """Start to measure a batch of rows given as JSON; return a function that waits for the measures."""
        if not self._batches and len(lines) >= FEWEST_ROWS and _can_fork():
            self._start_workers()
        self._batches += 1
        if not self._workers:
            update_catalogue(self._renderer, self._tools)
            return self._thread.submit(self._renderer.measure, lines).result
        number = self._batches % len(self._workers)
        new_tools = dict(list(self._tools.items())[self._tools_sent[number] :])
        self._tools_sent[number] = len(self._tools)
        return self._workers[number].submit(_measure, new_tools, lines).result

    def _start_workers(self) -> None:
        """Start executors of one process each, so that each is sent only the tools it has not seen."""
        gc.freeze()  # before a fork: garbage collection then neither scans nor copies the pages of what is imported
        context = multiprocessing.get_context("fork")  # the tokenizer is loaded already
        for _ in range(min(WORKERS, len(os.sched_getaffinity(0)))):
            self._workers.append(ProcessPoolExecutor(1, context, _begin, (self._renderer, os.getpid())))
            self._tools_sent.append(0)


def update_catalogue(renderer: Renderer, tools: dict[str, Tool]) -> None:
    """Give a renderer without a catalogue these tools, which it then sees grow."""
    if tools and renderer.catalogue is None:
        renderer.catalogue = Catalogue.model_construct(tools=tools)


def _begin(renderer: Renderer, parent: int) -> None:
    global _renderer, _tools
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    bind_to_parent(parent)  # an executor's process would wait for ever for a parent that was killed
    renderer.catalogue = None
    _renderer, _tools = renderer, {}


def _measure(new_tools: dict[str, Tool], lines: Sequence[bytes]) -> list[RowMeasure]:
    _tools.update(new_tools)
    update_catalogue(_renderer, _tools)
    return _renderer.measure(lines)


def _can_fork() -> bool:
    has_cores = sys.platform == "linux" and len(os.sched_getaffinity(0)) >= 2
    return has_cores and not multiprocessing.current_process().daemon
