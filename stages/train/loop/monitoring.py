"""What looks at a training while it runs: divergence stops it, a bound of `watch` alerts, patience ends it."""

import math
import shutil
import statistics
import sys
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuneline.configs.training import Train, Watch
from tuneline.core.events import Events

WINDOW = 100
"""Steps over which a median or a mean is taken."""
FEWEST = 10
"""Before so many steps there is no median to speak of."""
LOSS_FACTOR, NORM_FACTOR = 5.0, 100.0
"""Times its median at which a loss, or a gradient norm, is too high."""
IN_A_ROW = 5
"""So many steps too high mean that the training has diverged; one alone may be a hard batch of a model that knows the
rest: in the demo, one of 0.19 nats among a median of 0.04."""


class Divergence(TrainerCallback):
    """Stops at a loss or gradient norm that is no number, or stays many times its median; `why` says so.

    While one is too high no checkpoint is saved: should it stay so, the last one was made before.
    """

    def __init__(self) -> None:
        self.why: str | None = None
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._in_doubt = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        for entry in state.log_history[-WINDOW:]:  # of before a resume
            if "loss" in entry:
                self._losses.append(entry["loss"])
                self._norms.append(entry.get("grad_norm", 0.0))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        logs: dict[str, float] = given["logs"]
        if "loss" not in logs:
            return
        why = _off("loss", logs["loss"], self._losses, LOSS_FACTOR)
        if "grad_norm" in logs:
            why = why or _off("gradient norm", logs["grad_norm"], self._norms, NORM_FACTOR)
        if why is None:
            self._in_doubt = 0
            self._losses.append(logs["loss"])
            self._norms.append(logs.get("grad_norm", 0.0))
            return
        self._in_doubt += 1
        control.should_save = False  # what is there now must not be gone on from
        if self._in_doubt >= IN_A_ROW or not math.isfinite(logs["loss"] + logs.get("grad_norm", 0.0)):
            self.why = why
            control.should_training_stop, control.should_evaluate = True, False


def _off(name: str, value: float, before: Iterable[float], factor: float) -> str | None:
    earlier = list(before)
    if not math.isfinite(value):
        return f"the {name} is {value}"
    middle = statistics.median(earlier) if len(earlier) >= FEWEST else math.inf
    if value > factor * middle > 0:
        return f"the {name} is {value:.4g}, {value / middle:.0f} times its median of {middle:.4g}"
    return None


class Alerts(TrainerCallback):
    """A warning when a bound of the recipe's `watch` is crossed, and again only after it was kept."""

    def __init__(self, bounds: Watch, events: Events) -> None:
        self.bounds, self.events = bounds, events
        self._told: set[str] = set()
        self._losses: deque[float] = deque(maxlen=2 * WINDOW)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        logs: dict[str, float] = given["logs"]
        if "loss" not in logs:
            return
        self._losses.append(logs["loss"])
        for name, text in self._crossed(logs):
            if text and name not in self._told:
                self.events.emit("warning", text=f"watch.{name}: at step {state.global_step} {text}")
            (self._told.add if text else self._told.discard)(name)

    def _crossed(self, logs: dict[str, float]) -> Iterable[tuple[str, str | None]]:
        norm, bound = logs.get("grad_norm", 0.0), self.bounds.gradient_norm
        yield "gradient_norm", f"it is {norm:.3g}, and should stay below {bound:g}" if bound and norm >= bound else None
        if self.bounds.memory_gb:
            used = peak_memory_gb()
            over = used >= self.bounds.memory_gb
            yield "memory_gb", f"it is {used:.1f}, and should stay below {self.bounds.memory_gb:g}" if over else None
        if self.bounds.loss and len(self._losses) == 2 * WINDOW:
            losses = list(self._losses)
            before, now = statistics.mean(losses[:WINDOW]), statistics.mean(losses[WINDOW:])
            rising = now >= before
            yield "loss", f"its mean is {now:.4g}, of the {WINDOW} steps before {before:.4g}" if rising else None


class Best(TrainerCallback):
    """Saves the weights with the lowest validation loss through `save(folder)`; ends when patience does.

    Everything is read from the trainer's history, which its checkpoints carry: a resumed run decides the same.
    """

    def __init__(self, settings: Train, folder: Path, save: Callable[[Path], None], events: Events) -> None:
        self.settings, self.folder, self.save, self.events = settings, folder, save, events

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        history = validations(state)
        if self.settings.keep == "best" and lowest(history) == history[-1]:
            self.save(self.folder / f"step-{state.global_step}")
            self._prune()
        patience = self.settings.patience
        if (
            patience
            and without_gain(history, self.settings.min_delta) >= patience
            and state.global_step < state.max_steps
        ):
            control.should_training_stop = True
            self.events.emit("note", text=f"stops at step {state.global_step}: {patience} validations without a gain")

    def _prune(self) -> None:
        """One more is kept: a resume may lead back to before the newest."""
        saved = sorted(self.folder.glob("step-*"), key=lambda f: int(f.name.split("-")[1]))
        for old in saved[:-2]:
            shutil.rmtree(old, ignore_errors=True)


def validations(state: TrainerState) -> list[tuple[int, float]]:
    """(step, validation loss), one a step, in order."""
    found = {int(entry["step"]): float(entry["eval_loss"]) for entry in state.log_history if "eval_loss" in entry}
    return sorted(found.items())


def lowest(history: list[tuple[int, float]]) -> tuple[int, float]:
    """The earliest of those with the lowest loss."""
    return min(history, key=lambda entry: entry[1])


def without_gain(history: list[tuple[int, float]], min_delta: float) -> int:
    """How many validations have passed since the last that was lower than all before it by `min_delta`."""
    best, since = math.inf, 0
    for _, loss in history:
        best, since = (loss, 0) if loss < best - min_delta else (best, since + 1)
    return since


def process_memory_gb() -> float:
    """The most this process has held so far, in 10^9 bytes; the interpreter and its libraries too."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def peak_memory_gb() -> float:
    """Of this process's GPU, in 10^9 bytes; 0 without one."""
    import torch

    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
