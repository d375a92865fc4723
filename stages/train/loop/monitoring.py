"""Checks on the metrics of a running training: divergence stops it, bounds in the recipe's `watch` raise alerts."""

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuneline.configs.training import Watch
from tuneline.core.events import Events
from tuneline.stages.train.distributed.device_memory import read_peak_gpu_gb

WINDOW = 100
"""Steps over which a median or a mean is taken."""
MIN_STEPS = 10
"""Steps before a median means anything."""
LOSS_FACTOR, NORM_FACTOR = 5.0, 100.0
"""A loss, or a gradient norm, is too high at this many times its median."""
MAX_HIGH_STEPS = 5
"""This many high steps in a row mean that the training has diverged. A single one may be a hard batch for a model that
knows the rest: in the demo, one batch had 0.19 nats where the median was 0.04."""


class DivergenceStop(TrainerCallback):
    """Stops when a loss or gradient norm is not finite, or stays many times its median; `reason` then says why.

    No checkpoint is saved while a value is too high, so the last checkpoint is from before a divergence.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._high_steps = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        for entry in state.log_history[-WINDOW:]:  # the steps before a resume
            if "loss" in entry:
                self._losses.append(entry["loss"])
                self._norms.append(entry.get("grad_norm", 0.0))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any) -> None:
        logs: dict[str, float] = context["logs"]
        if not math.isfinite(logs.get("eval_loss", 0.0)):
            self._stop(f"the validation loss is {logs['eval_loss']}", control)
        if "loss" not in logs:
            return
        reason = _describe_outlier("loss", logs["loss"], self._losses, LOSS_FACTOR)
        if "grad_norm" in logs:
            reason = reason or _describe_outlier("gradient norm", logs["grad_norm"], self._norms, NORM_FACTOR)
        if reason is None:
            self._high_steps = 0
            self._losses.append(logs["loss"])
            self._norms.append(logs.get("grad_norm", 0.0))
            return
        self._high_steps += 1
        control.should_save = False  # these weights must not be resumed from
        if self._high_steps >= MAX_HIGH_STEPS or not math.isfinite(logs["loss"] + logs.get("grad_norm", 0.0)):
            self._stop(reason, control)

    def _stop(self, reason: str, control: TrainerControl) -> None:
        self.reason = reason
        control.should_training_stop, control.should_evaluate, control.should_save = True, False, False


def _describe_outlier(name: str, value: float, history: Iterable[float], factor: float) -> str | None:
    earlier = list(history)
    if not math.isfinite(value):
        return f"the {name} is {value}"
    median = statistics.median(earlier) if len(earlier) >= MIN_STEPS else math.inf
    if value > factor * median > 0:
        return f"the {name} is {value:.4g}, {value / median:.0f} times its median of {median:.4g}"
    return None


class Alerts(TrainerCallback):
    """Emits a warning when a bound of the recipe's `watch` is crossed, and again only after it was kept in between."""

    def __init__(self, bounds: Watch, events: Events) -> None:
        self.bounds, self.events = bounds, events
        self._active: set[str] = set()
        self._losses: deque[float] = deque(maxlen=2 * WINDOW)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any) -> None:
        logs: dict[str, float] = context["logs"]
        if "loss" not in logs:
            return
        self._losses.append(logs["loss"])
        for name, text in self._check_bounds(logs):
            if text and name not in self._active:
                self.events.emit("warning", text=f"watch.{name}: at step {state.global_step} {text}")
            (self._active.add if text else self._active.discard)(name)

    def _check_bounds(self, logs: dict[str, float]) -> Iterable[tuple[str, str | None]]:
        """Yield each bound's name with a description of how it is crossed, None if it is kept."""
        norm, bound = logs.get("grad_norm", 0.0), self.bounds.gradient_norm
        yield "gradient_norm", f"it is {norm:.3g}, and should stay below {bound:g}" if bound and norm >= bound else None
        if self.bounds.memory_gb:
            used = read_peak_gpu_gb()
            over = used >= self.bounds.memory_gb
            yield "memory_gb", f"it is {used:.1f}, and should stay below {self.bounds.memory_gb:g}" if over else None
        if self.bounds.loss and len(self._losses) == 2 * WINDOW:
            losses = list(self._losses)
            before, now = statistics.mean(losses[:WINDOW]), statistics.mean(losses[WINDOW:])
            rising = now >= before
            yield (
                "loss",
                f"its mean is {now:.4g}, after {before:.4g} in the previous {WINDOW} steps" if rising else None,
            )
