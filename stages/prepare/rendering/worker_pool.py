"""Worker processes that render and tokenize rows while the main process reads and checks the next ones."""

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from tuneline.configs.catalogue import Catalogue, Tool
from tuneline.stages.prepare.rendering.renderer import Renderer, RowMeasure

WORKERS = 4
"""Most worker processes. Reading and checking keeps no more of them busy."""
FEWEST_ROWS = 256
"""Rows of the first batch from which workers are started. A smaller first batch is all the data."""


class WorkerPool:
    """Measures batches of rows in worker processes, or in a thread. `tools` may grow between two batches."""

    def __init__(self, renderer: Renderer, tools: dict[str, Tool]) -> None:
        self._renderer, self._tools = renderer, tools
        self._workers: list[_Worker] = []
        self._thread = ThreadPoolExecutor(1)
        self._batches = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.stop()

    def measure(self, lines: Sequence[bytes]) -> Callable[[], list[RowMeasure]]:
        """Start to measure a batch of rows given as JSON; return a function that waits for the measures."""
        if not self._batches and len(lines) >= FEWEST_ROWS and _can_fork():
            gc.freeze()  # before a fork: garbage collection then neither scans nor copies the pages of what is imported
            self._workers = [_Worker(self._renderer) for _ in range(min(WORKERS, len(os.sched_getaffinity(0))))]
        self._batches += 1
        if self._workers:
            return self._workers[self._batches % len(self._workers)].measure(lines, self._tools)
        update_catalogue(self._renderer, self._tools)
        return self._thread.submit(self._renderer.measure, lines).result


class _Worker:
    """A process that measures the batches it is sent, and the thread that waits for it."""

    def __init__(self, renderer: Renderer) -> None:
        context = multiprocessing.get_context("fork")  # the tokenizer is loaded already
        self._tools_sent, self._thread = 0, ThreadPoolExecutor(1)
        self._pipe, worker_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(worker_end, self._pipe, renderer), daemon=True)
        self._process.start()
        worker_end.close()

    def measure(self, lines: Sequence[bytes], tools: dict[str, Tool]) -> Callable[[], list[RowMeasure]]:
        new_tools = list(tools.items())[self._tools_sent :] if len(tools) > self._tools_sent else []
        self._tools_sent = len(tools)
        return self._thread.submit(self._exchange, (new_tools, lines)).result

    def stop(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._pipe.close()
        self._process.terminate()  # its pipe may not end when we close it: later workers inherited it
        self._process.join()

    def _exchange(self, batch: tuple[list[tuple[str, Tool]], Sequence[bytes]]) -> list[RowMeasure]:
        self._pipe.send(batch)
        measures: list[RowMeasure] = self._pipe.recv()
        return measures


def update_catalogue(renderer: Renderer, tools: dict[str, Tool]) -> None:
    """Give a renderer without a catalogue these tools, which it then sees grow."""
    if tools and renderer.catalogue is None:
        renderer.catalogue = Catalogue.model_construct(tools=tools)


def _serve(pipe: Any, parent_end: Any, renderer: Renderer) -> None:
    """Measure batches from the pipe until it is closed."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    parent_end.close()
    tools: dict[str, Tool] = {}
    renderer.catalogue = None
    while True:
        try:
            new_tools, lines = pipe.recv()
        except EOFError:
            return
        tools.update(new_tools)
        update_catalogue(renderer, tools)
        pipe.send(renderer.measure(lines))


def _can_fork() -> bool:
    has_cores = sys.platform == "linux" and len(os.sched_getaffinity(0)) >= 2
    return has_cores and not multiprocessing.current_process().daemon
