"""What the trainer tells the run: metrics and checkpoints as events; and SIGTERM as a checkpoint and a stop."""

import math
import signal
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.events import Events
from stages.train.checkpoints import mark_whole

NAMES = {"loss": "loss", "learning_rate": "learning_rate", "grad_norm": "gradient_norm", "eval_loss": "validation_loss"}


class Report(TrainerCallback):
    """Writes what is logged to the run's events, with tokens per second and perplexity."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self._tokens, self._at = 0.0, time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._tokens, self._at = float(state.num_input_tokens_seen), time.monotonic()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        logs: dict[str, Any] = given["logs"]
        fields = {ours: logs[theirs] for theirs, ours in NAMES.items() if theirs in logs}
        if not fields:
            return
        if "validation_loss" in fields:
            fields["perplexity"] = math.exp(min(fields["validation_loss"], 50.0))
        if "loss" in fields and "num_tokens" in logs:
            now, tokens = time.monotonic(), float(logs["num_tokens"])
            fields["tokens_per_second"] = round((tokens - self._tokens) / max(now - self._at, 1e-9), 1)
            self._tokens, self._at = tokens, now
        self.events.emit("metrics", step=state.global_step, steps=state.max_steps, epoch=state.epoch, **fields)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._at = time.monotonic()  # validation is not counted as training time


class Checkpoints(TrainerCallback):
    """Marks a checkpoint whole once all of it is written."""

    def __init__(self, events: Events) -> None:
        self.events = events

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert args.output_dir
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        mark_whole(checkpoint)
        self.events.emit("checkpoint", step=state.global_step, path=checkpoint.name)


class StopOnSignal(TrainerCallback):
    """On SIGTERM: finish the step, save a checkpoint, stop. `stopped` tells that it happened."""

    def __init__(self) -> None:
        self.stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: Any) -> None:
        self.stopped = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.stopped:
            control.should_save = control.should_training_stop = True
