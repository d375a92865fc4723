"""Rows are rendered and tokenized in a process beside the one that reads and checks them: two cores, one stream."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from configs.catalogue import Catalogue, Tool
from stages.prepare.render import Measured, Renderer
from stages.prepare.rows import Row

FEWEST_ROWS = 256
"""A first batch with fewer rows is all there is: not worth a process."""


class Aside:
    """Measures batches elsewhere; answers come in order. `tools` may grow between two batches."""

    def __init__(self, renderer: Renderer, tools: dict[str, Tool]) -> None:
        self._renderer, self._tools, self._told = renderer, tools, 0
        self._process: Any = None
        self._pipe: Any = None
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)
        if self._process:
            self._pipe.close()  # its end tells the other process to go
            self._process.join()

    def measure(self, rows: Sequence[Row], lines: Sequence[bytes]) -> Callable[[], list[Measured]]:
        """What gives the measures of a batch; `lines` are the rows as JSON."""
        if self._process is None and len(rows) >= FEWEST_ROWS and _can_fork():
            self._start()
        if self._process is None:
            show(self._renderer, self._tools)
            return self._thread.submit(self._renderer.measure, rows).result
        new = list(self._tools.items())[self._told :]
        self._told = len(self._tools)
        return self._thread.submit(self._ask, (new, lines)).result

    def _ask(self, batch: tuple[list[tuple[str, Tool]], Sequence[bytes]]) -> list[Measured]:
        self._pipe.send(batch)
        answer: list[Measured] = self._pipe.recv()
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")  # the tokenizer is there already
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._pipe, self._renderer), daemon=True)
        self._process.start()
        other.close()


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
        pipe.send(renderer.measure([Row.model_validate_json(line) for line in lines]))


def _can_fork() -> bool:
    alone = sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2
    return not alone and not multiprocessing.current_process().daemon
