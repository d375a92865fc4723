"""Trainer callbacks: metrics and checkpoints as events of the run; SIGTERM as a checkpoint and a stop."""

import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuneline.configs.training import Train
from tuneline.core.events import Events
from tuneline.stages.train.distributed.device_memory import read_peak_gpu_gb, read_peak_process_gb
from tuneline.stages.train.distributed.process_group import any_process, get_world_size, is_main_process
from tuneline.stages.train.job import TrainingJob
from tuneline.stages.train.loop.checkpoints import mark_complete
from tuneline.stages.train.loop.flops import read_peak_flops

EVENT_FIELDS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
    "eval_loss": "validation_loss",
}
"""Our event fields, by the trainer's log keys."""


class MetricsReport(TrainerCallback):
    """Emits what the trainer logs as `metrics` events, with perplexity, speed and memory.

    tokens_per_second counts the tokens read, learned_tokens_per_second those in the loss. teraflops are the model's
    own, without recomputation; model_flops_utilization is their share of the GPUs' peak.
    """

    def __init__(self, events: Events, flops_per_token: float, count_loss_tokens: Callable[[], float]) -> None:
        """`count_loss_tokens` returns the number of tokens in the loss since training started."""
        self.events, self.flops_per_token, self.count_loss_tokens = events, flops_per_token, count_loss_tokens
        self._peak_flops = read_peak_flops()
        self._tokens, self._loss_tokens, self._logged_at = 0.0, 0.0, time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._tokens, self._logged_at = float(state.num_input_tokens_seen), time.monotonic()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any) -> None:
        logs: dict[str, Any] = context["logs"]
        fields = {field: _finite_or_none(logs[key]) for key, field in EVENT_FIELDS.items() if key in logs}
        if not fields:
            return
        if (validation_loss := fields.get("validation_loss")) is not None:
            fields["perplexity"] = math.exp(min(validation_loss, 50.0))
        if "loss" in fields and "num_tokens" in logs:
            fields |= self._measure_speed(float(logs["num_tokens"]))
        self.events.emit("metrics", step=state.global_step, steps=state.max_steps, epoch=state.epoch, **fields)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._logged_at = time.monotonic()  # validation does not count as training time

    def _measure_speed(self, tokens: float) -> dict[str, float]:
        now, loss_tokens = time.monotonic(), self.count_loss_tokens()
        seconds = max(now - self._logged_at, 1e-9)
        speed = (tokens - self._tokens) / seconds
        fields = {
            "tokens_per_second": round(speed, 1),
            "learned_tokens_per_second": round((loss_tokens - self._loss_tokens) / seconds, 1),
            "teraflops": round(speed * self.flops_per_token / 1e12, 4),
        }
        if self._peak_flops:
            utilization = speed * self.flops_per_token / (self._peak_flops * get_world_size())
            fields["model_flops_utilization"] = round(utilization, 4)
        if memory := read_peak_gpu_gb():
            fields["memory_gb"] = round(memory, 2)
        else:
            fields["process_gb"] = round(read_peak_process_gb(), 2)
        self._tokens, self._loss_tokens, self._logged_at = tokens, loss_tokens, now
        return fields


def _finite_or_none(value: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return value if math.isfinite(value) else None


class FirstStep(TrainerCallback):
    """Notes how long it took from the call to the first step, and how much of that was loading the base."""

    def __init__(self, events: Events, job: TrainingJob, loading_at: float, loaded_at: float) -> None:
        """`loading_at` and `loaded_at` are when loading the base began and ended, in seconds of the clock."""
        self.events, self.job, self.loading_at, self.loaded_at = events, job, loading_at, loaded_at
        self._is_done = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._is_done:
            return
        self._is_done, now = True, time.time()
        gigabytes = sum(file.stat().st_size for file in self.job.base.glob("*.safetensors")) / 1e9
        text = (
            f"first step {now - self.job.called_at:.1f} s after the call: {self.loading_at - self.job.called_at:.1f} s "
            f"to start, {self.loaded_at - self.loading_at:.1f} s to load {gigabytes:.3g} GB, "
            f"{now - self.loaded_at:.1f} s for the rest and the step"
        )
        self.events.emit("note", text=text)


class StartReport(TrainerCallback):
    """Says when training starts: the step at which it resumes, and a warm-up that is longer than the training."""

    def __init__(self, settings: Train, events: Events) -> None:
        self.settings, self.events = settings, events

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step:
            self.events.emit("note", text=f"resumes at step {state.global_step} of {state.max_steps}")
        if short_warmup := self.settings.describe_short_warmup(state.max_steps):
            self.events.emit("warning", text=short_warmup)


class CheckpointMarker(TrainerCallback):
    """Marks a checkpoint complete once every process has written its part."""

    def __init__(self, events: Events) -> None:
        self.events = events

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert args.output_dir
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if get_world_size() > 1:
            dist.barrier()
        if is_main_process():
            mark_complete(checkpoint)
            self.events.emit("checkpoint", step=state.global_step, path=checkpoint.name)


class TimedCheckpoints(TrainerCallback):
    """Has a checkpoint saved when the last one is `minutes` old, by the clock of the main process."""

    def __init__(self, minutes: float | None) -> None:
        self.seconds = math.inf if minutes is None else 60 * minutes
        self._saved_at = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._saved_at = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        is_due = is_main_process() and time.monotonic() - self._saved_at >= self.seconds
        if any_process(is_due):
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._saved_at = time.monotonic()


class StopOnSignal(TrainerCallback):
    """On SIGTERM, finishes the step, saves a checkpoint and stops, in all processes; `stopped` is then true."""

    def __init__(self) -> None:
        self.stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: Any) -> None:
        self.stopped = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.stopped = any_process(self.stopped)
        if self.stopped:
            control.should_save = control.should_training_stop = True
