"""Rows are rendered and tokenized in processes beside the one that reads and checks them, in one stream."""

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
from tuneline.stages.prepare.rendering.renderer import Measured, Renderer

WORKERS = 4
"""At most; reading and checking keeps no more of them busy."""
FEWEST_ROWS = 256
"""A first batch with fewer rows is all there is: not worth a process."""


class Aside:
    """Measures batches elsewhere; answers come in order. `tools` may grow between two batches."""

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

    def measure(self, lines: Sequence[bytes]) -> Callable[[], list[Measured]]:
        """What gives the measures of a batch of rows, each as JSON."""
        if not self._batches and len(lines) >= FEWEST_ROWS and _can_fork():
            gc.freeze()  # before a fork: no collection looks through what is imported by now, or copies its pages
            self._workers = [_Worker(self._renderer) for _ in range(min(WORKERS, len(os.sched_getaffinity(0))))]
        self._batches += 1
        if self._workers:
            return self._workers[self._batches % len(self._workers)].measure(lines, self._tools)
        show(self._renderer, self._tools)
        return self._thread.submit(self._renderer.measure, lines).result


class _Worker:
    """A process that measures what it is sent, and the thread that waits for it."""

    def __init__(self, renderer: Renderer) -> None:
        context = multiprocessing.get_context("fork")  # the tokenizer is there already
        self._told, self._thread = 0, ThreadPoolExecutor(1)
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._pipe, renderer), daemon=True)
        self._process.start()
        other.close()

    def measure(self, lines: Sequence[bytes], tools: dict[str, Tool]) -> Callable[[], list[Measured]]:
        new = list(tools.items())[self._told :] if len(tools) > self._told else []
        self._told = len(tools)
        return self._thread.submit(self._ask, (new, lines)).result

    def stop(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._pipe.close()
        self._process.terminate()  # it may wait for the end of a pipe that a later worker holds open too
        self._process.join()

    def _ask(self, batch: tuple[list[tuple[str, Tool]], Sequence[bytes]]) -> list[Measured]:
        self._pipe.send(batch)
        answer: list[Measured] = self._pipe.recv()
        return answer


def show(renderer: Renderer, tools: dict[str, Tool]) -> None:
    """Gives a renderer the tools known by now."""
    if tools and renderer.catalogue is None:
        renderer.catalogue = Catalogue.model_construct(tools=tools)


def _serve(pipe: Any, other: Any, renderer: Renderer) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    other.close()
    tools: dict[str, Tool] = {}
    renderer.catalogue = None
    while True:
        try:
            new, lines = pipe.recv()
        except EOFError:
            return
        tools.update(new)
        show(renderer, tools)
        pipe.send(renderer.measure(lines))


def _can_fork() -> bool:
    alone = sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2
    return not alone and not multiprocessing.current_process().daemon
