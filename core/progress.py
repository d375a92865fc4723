"""A run's events as people see them while they happen: progress bars on a terminal, plain lines elsewhere.

Nothing that fails in showing an event ends or repeats the work that it is about.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from tuneline.core.events import Events, Kind
from tuneline.core.formatting import format_progress
from tuneline.core.safe_console import SafeConsole

log = logging.getLogger(__name__)

PLAIN_EVERY_S = 5.0
"""Shortest time between two plain lines of progress; validations and warnings are always printed."""


class Progress:
    """Shows a run's events: bars on a terminal, plain lines elsewhere."""

    def __init__(self, console: SafeConsole) -> None:
        self.console, self._last_line, self._has_failed = console, 0.0, False
        self._tasks: dict[str, TaskID] = {}
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            redirect_stdout=False,  # rich would read colours and links in what is printed meanwhile
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        with self._failures_logged():
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._failures_logged():
            self._bars.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Show one event; if that fails, the first failure is logged and none is raised."""
        with self._failures_logged():
            self._show(event)

    @contextlib.contextmanager
    def _failures_logged(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._has_failed:
                log.warning("some progress output failed: %s: %s; the run continues", type(error).__name__, error)
            self._has_failed = True

    def _show(self, event: dict[str, Any]) -> None:
        match event["kind"]:
            case "finished":
                self._print(event, "finished already")
            case "ended":
                self._print(event, f"done in {event['seconds']:.0f} s")
            case "stopping":
                self._print(event, "stopping; saving progress")
            case "stopped":
                self._print(event, event["text"])
            case "warning":
                self._print(event, f"warning: {event['text']}")
            case "note":
                self._print(event, event["text"])
            case "progress":
                self._advance(event, event["done"], event["total"], event["unit"], event["text"])
            case "metrics":
                if "validation_loss" in event:
                    self._print(event, f"step {event['step']}: {_format_metrics(event)}")
                else:
                    self._advance(event, event["step"], event["steps"], "steps", _format_metrics(event))

    def _advance(self, event: dict[str, Any], completed: float, total: float, unit: str, text: str) -> None:
        if not (math.isfinite(completed) and math.isfinite(total)):
            raise ValueError(f"{completed} of {total}")  # a bar that cannot be drawn stops all others
        stage, text = f"{event['stage']:<9}", f"{format_progress(completed, total, unit)} {text}".rstrip()
        if self.console.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, text=text)
            self._bars.update(self._tasks[stage], completed=completed, total=total, text=text)
        elif time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            self._print(event, text)

    def _print(self, event: dict[str, Any], text: str) -> None:
        lines = text.replace("\n", "\n" + " " * 10)  # so that no line of it looks like one of another event
        self.console.print(f"{event['stage']:<9} {lines}", soft_wrap=True)


class UnsavedEvents(Events):
    """Events of work that belongs to no run: passed to `show` at once and stored nowhere."""

    def __init__(self, show: Callable[[dict[str, Any]], None], stage: str) -> None:
        self.show, self.stage = show, stage

    def emit(self, kind: Kind, **fields: Any) -> None:
        self.show({"stage": self.stage, "kind": kind, **fields})


def _format_metrics(event: dict[str, Any]) -> str:
    names = {"loss": "loss", "validation_loss": "validation loss", "perplexity": "perplexity"}
    parts = [f"{label} {_format_number(event[name])}" for name, label in names.items() if name in event]
    if "tokens_per_second" in event:
        parts.append(f"{event['tokens_per_second']:.0f} tokens/s")
    return ", ".join(parts)


def _format_number(number: float | None) -> str:
    """Return a number with three decimals; None is how events write one that is not finite."""
    return "no number" if number is None else f"{number:.3f}"
