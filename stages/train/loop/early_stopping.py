"""Best weights by validation loss, and the end of a training that no longer improves."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuneline.configs.training import Train
from tuneline.core.events import Events

BEST_KEPT = 2
"""The best weights and the ones before: a resumed run may restart from a step before the newest best."""


@dataclass(frozen=True)
class Validation:
    """One evaluation on the validation split."""

    step: int
    loss: float
    """In nats per token in the loss."""


class EarlyStopping(TrainerCallback):
    """Saves the weights with the lowest validation loss through `save(folder)`; stops when `patience` runs out.

    All decisions are based on the trainer's log history, which its checkpoints contain: a resumed run decides the same.
    """

    def __init__(self, settings: Train, folder: Path, save: Callable[[Path], None], events: Events) -> None:
        self.settings, self.folder, self.save, self.events = settings, folder, save, events

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        history = read_validations(state)
        if self.settings.keep == "best" and find_lowest(history) == history[-1]:
            self.save(self.folder / f"step-{state.global_step}")
            self._delete_older()
        patience = self.settings.patience
        if (
            patience
            and count_since_improvement(history, self.settings.min_delta) >= patience
            and state.global_step < state.max_steps
        ):
            control.should_training_stop = True
            self.events.emit(
                "note", text=f"stops at step {state.global_step}: {patience} validations without improvement"
            )

    def _delete_older(self) -> None:
        saved = sorted(self.folder.glob("step-*"), key=lambda f: int(f.name.split("-")[1]))
        for folder in saved[:-BEST_KEPT]:
            shutil.rmtree(folder, ignore_errors=True)


def read_validations(state: TrainerState) -> list[Validation]:
    """Return the validations in the trainer's log, one per step, ordered by step."""
    losses = {int(entry["step"]): float(entry["eval_loss"]) for entry in state.log_history if "eval_loss" in entry}
    return [Validation(step, loss) for step, loss in sorted(losses.items())]


def find_lowest(history: list[Validation]) -> Validation:
    """Return the validation with the lowest loss; the earliest if several have it."""
    return min(history, key=lambda validation: validation.loss)


def count_since_improvement(history: list[Validation], min_delta: float) -> int:
    """Return the number of validations since the last that was lower than all before it by more than `min_delta`."""
    best, count = math.inf, 0
    for validation in history:
        best, count = (validation.loss, 0) if validation.loss < best - min_delta else (best, count + 1)
    return count
