"""What the trainer tells the run: metrics and checkpoints as events; and SIGTERM as a checkpoint and a stop."""

import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuneline.core.events import Events
from tuneline.stages.train.loop.checkpoints import mark_whole
from tuneline.stages.train.loop.flops import peak_flops
from tuneline.stages.train.loop.monitoring import peak_memory_gb, process_memory_gb
from tuneline.stages.train.loop.trainer import any_process, is_first, world

NAMES = {"loss": "loss", "learning_rate": "learning_rate", "grad_norm": "gradient_norm", "eval_loss": "validation_loss"}


class Report(TrainerCallback):
    """Writes what is logged to the run's events, with perplexity, and what the hardware makes of it.

    Tokens per second are those that are read and those that are learned; teraflops are the model's own, without
    recomputation, and model_flops_utilization their share of the GPUs' peak.
    """

    def __init__(self, events: Events, flops_per_token: float, learned: Callable[[], float]) -> None:
        self.events, self.flops_per_token, self.learned = events, flops_per_token, learned
        self._peak = peak_flops()
        self._tokens, self._learned, self._at = 0.0, 0.0, time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._tokens, self._at = float(state.num_input_tokens_seen), time.monotonic()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        logs: dict[str, Any] = given["logs"]
        fields = {ours: _finite(logs[theirs]) for theirs, ours in NAMES.items() if theirs in logs}
        if not fields:
            return
        if (validation_loss := fields.get("validation_loss")) is not None:
            fields["perplexity"] = math.exp(min(validation_loss, 50.0))
        if "loss" in fields and "num_tokens" in logs:
            fields |= self._speed(float(logs["num_tokens"]))
        self.events.emit("metrics", step=state.global_step, steps=state.max_steps, epoch=state.epoch, **fields)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._at = time.monotonic()  # validation is not counted as training time

    def _speed(self, tokens: float) -> dict[str, float]:
        now, learned = time.monotonic(), self.learned()
        seconds = max(now - self._at, 1e-9)
        speed = (tokens - self._tokens) / seconds
        fields = {
            "tokens_per_second": round(speed, 1),
            "learned_tokens_per_second": round((learned - self._learned) / seconds, 1),
            "teraflops": round(speed * self.flops_per_token / 1e12, 4),
        }
        if self._peak:
            fields["model_flops_utilization"] = round(speed * self.flops_per_token / (self._peak * world()), 4)
        if memory := peak_memory_gb():
            fields["memory_gb"] = round(memory, 2)
        else:
            fields["process_gb"] = round(process_memory_gb(), 2)
        self._tokens, self._learned, self._at = tokens, learned, now
        return fields


def _finite(value: float) -> float | None:
    """JSON has no word for what is no number."""
    return value if math.isfinite(value) else None


class Checkpoints(TrainerCallback):
    """Marks a checkpoint whole once every process has written its part."""

    def __init__(self, events: Events) -> None:
        self.events = events

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert args.output_dir
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if world() > 1:
            dist.barrier()
        if is_first():
            mark_whole(checkpoint)
            self.events.emit("checkpoint", step=state.global_step, path=checkpoint.name)


class StopOnSignal(TrainerCallback):
    """On SIGTERM: finish the step, save a checkpoint, stop, all processes together; `stopped` then is true."""

    def __init__(self) -> None:
        self.stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: Any) -> None:
        self.stopped = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.stopped = any_process(self.stopped)
        if self.stopped:
            control.should_save = control.should_training_stop = True
