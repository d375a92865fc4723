"""One training, from prepared rows to the finished adapter."""

import math
import os
import shutil
import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback
from transformers.trainer_utils import set_seed

from tuneline.configs.recipe import Recipe
from tuneline.configs.training import Train
from tuneline.core import artifacts
from tuneline.core.errors import StageFailed
from tuneline.core.events import Events
from tuneline.stages.prepare.prepared_run import TEMPLATE, load_tools
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.train.distributed.allocator import return_freed_memory
from tuneline.stages.train.distributed.device_memory import describe_out_of_memory
from tuneline.stages.train.distributed.fsdp2 import ShardReport
from tuneline.stages.train.distributed.placement import is_sharded
from tuneline.stages.train.distributed.process_group import broadcast_from_main, is_main_process
from tuneline.stages.train.job import TrainingJob
from tuneline.stages.train.loop.adapter_files import save_publishable_adapter
from tuneline.stages.train.loop.arguments import build_training_arguments, make_lora_plus_optimizer
from tuneline.stages.train.loop.callbacks import (
    CheckpointMarker,
    FirstStep,
    MetricsReport,
    StartReport,
    StopOnSignal,
    TimedCheckpoints,
)
from tuneline.stages.train.loop.checkpoints import find_newest_complete, last_checkpoint_step
from tuneline.stages.train.loop.early_stopping import EarlyStopping, Validation, find_lowest, read_validations
from tuneline.stages.train.loop.flops import count_flops_per_token
from tuneline.stages.train.loop.monitoring import Alerts, DivergenceStop
from tuneline.stages.train.loop.samples import SampleAnswers
from tuneline.stages.train.loop.trainer import Trainer
from tuneline.stages.train.loop.training_data import load_dataset, refuse_hiding_padding
from tuneline.stages.train.model.adapter_weights import cast_adapter_to_fp32, load_adapter_weights
from tuneline.stages.train.model.base_model import load_model
from tuneline.stages.train.model.parameter_count import count_parameters

LAST_STEPS = 10
"""Steps over which `train_loss` is the mean."""


def fit(job: TrainingJob, events: Events) -> dict[str, float]:
    """Train to the end, from the newest complete checkpoint if there is one, and write `job.folder/adapter`.

    Returns the metrics of the stage: train_loss (of the last steps) and validation_loss, both in nats per token in the
    loss, perplexity, the step they belong to, steps, epochs, and the numbers of all and of trained parameters.

    Raises:
        BadRecipe: the base does not support what the recipe asks for.
        StageFailed: no memory for the base; interrupted by SIGTERM, after a checkpoint; or diverged, with the last good
            checkpoint kept.
    """
    recipe, scratch = job.recipe, job.folder / artifacts.SCRATCH
    _configure_torch(recipe)
    renderer = Renderer(job.base, load_tools(job.prepared), job.prepared / TEMPLATE)
    datasets = _load_datasets(renderer, job.prepared)
    loading_at = time.time()
    model = _load_model(job, events)
    first_step = FirstStep(events, job, loading_at, loaded_at=time.time())
    counted = count_parameters(model)
    return_freed_memory(counted.total)
    stop, divergence = StopOnSignal(), DivergenceStop()
    trainer = _make_trainer(recipe, model, datasets, renderer, scratch / "checkpoints")
    _add_callbacks(trainer, model, recipe, datasets, scratch / "best", events, stop, divergence)
    trainer.add_callback(first_step)
    cast_adapter_to_fp32(model)
    if job.start:  # only now: TRL has rounded all earlier adapter weights to bf16
        load_adapter_weights(model, job.start, str(model.checkpoint_prefix))
    checkpoint = broadcast_from_main(lambda: find_newest_complete(scratch / "checkpoints", events))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _refuse_unfinished(trainer, stop, divergence, scratch / "checkpoints", recipe.train)
    history = _validate_last_step(trainer)
    _refuse_unfinished(trainer, stop, divergence, scratch / "checkpoints", recipe.train)  # for the last validation
    selected = _move_adapter(trainer, recipe, history, job.folder)
    return {
        "train_loss": statistics.mean(_read_step_losses(trainer)[-LAST_STEPS:]),
        "validation_loss": selected.loss,
        "perplexity": math.exp(selected.loss),
        "steps": trainer.state.global_step,
        "kept_step": selected.step,
        "epochs": round(trainer.state.epoch or 0, 3),
        "parameters_trained": counted.trainable,
        "parameters_total": counted.total,
    }


def _load_model(job: TrainingJob, events: Events) -> PeftModel:
    """Return the base with its adapter. Out of memory is final here: it does not depend on the rows at a time."""
    try:
        return load_model(job.recipe.train, job.base, job.start, events, sharded=is_sharded())
    except Exception as error:
        if (message := describe_out_of_memory(error)) is None:
            raise
    raise StageFailed(
        f"train: out of memory while the base was loaded: {message}. Use a GPU with more memory, several with "
        "compute.strategy fsdp2, or method qlora; `tuneline plan` says what it needs"
    )


@dataclass(frozen=True)
class Datasets:
    """Rendered rows of both splits."""

    train: Dataset
    validation: Dataset


def _load_datasets(renderer: Renderer, prepared: Path) -> Datasets:
    return Datasets(*(load_dataset(renderer, prepared / f"{split}.jsonl") for split in ("train", "validation")))


def _configure_torch(recipe: Recipe) -> None:
    torch.set_num_threads(recipe.compute.threads or len(os.sched_getaffinity(0)))
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    # A debugging aid that took 29 % of a step on the CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    set_seed(recipe.train.seed)


def _make_trainer(
    recipe: Recipe, model: PeftModel, datasets: Datasets, renderer: Renderer, checkpoints: Path
) -> Trainer:
    settings = recipe.train
    trainer = Trainer(
        batch_rows=settings.batch_rows,
        make_optimizer=partial(make_lora_plus_optimizer, settings=settings) if settings.lora_plus > 1 else None,
        model=model,
        args=build_training_arguments(recipe, checkpoints, len(datasets.train), model),
        train_dataset=datasets.train,
        eval_dataset=datasets.validation,
        processing_class=renderer.tokenizer,
    )
    refuse_hiding_padding(trainer.data_collator, datasets.train, renderer.tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _add_callbacks(
    trainer: Trainer,
    model: PeftModel,
    recipe: Recipe,
    datasets: Datasets,
    best: Path,
    events: Events,
    stop: StopOnSignal,
    divergence: DivergenceStop,
) -> None:
    lengths = [len(ids) for ids in datasets.train["input_ids"]]
    flops = count_flops_per_token(model, model.config, lengths)
    for callback in (
        MetricsReport(events, flops, lambda: trainer.loss_tokens),
        divergence,
        StartReport(recipe.train, events),
        Alerts(recipe.watch, events),
        EarlyStopping(recipe.train, best, partial(_save, trainer, recipe), events),
        CheckpointMarker(events),
        TimedCheckpoints(recipe.compute.save_minutes),
        SampleAnswers(datasets.validation, trainer.processing_class, events, sharded=is_sharded()),
        stop,
        *([ShardReport(events)] if is_sharded() else []),
    ):
        trainer.add_callback(callback)


def _refuse_unfinished(
    trainer: Trainer, stop: StopOnSignal, divergence: DivergenceStop, checkpoints: Path, settings: Train
) -> None:
    """Raise StageFailed if training diverged, or was stopped before its last step."""
    step, saved = trainer.state.global_step, last_checkpoint_step(checkpoints)
    if divergence.reason:
        raise StageFailed(_advise_after_divergence(divergence.reason, step, saved, checkpoints, settings))
    if stop.stopped and step < trainer.state.max_steps:
        # Not necessarily this step: nothing is saved while a divergence is suspected.
        place = "" if saved == step else f" from step {saved}"
        raise StageFailed(f"interrupted at step {step}; the same command resumes{place}")


def _advise_after_divergence(reason: str, step: int, saved: int, checkpoints: Path, settings: Train) -> str:
    last = f"checkpoint-{saved} in {checkpoints} is the last good one" if saved else "there is no checkpoint before it"
    return (
        f"diverged at step {step}: {reason}; {last}. The same command would resume there and diverge again: lower "
        f"train.learning_rate (now {settings.learning_rate:g}; try {settings.learning_rate / 4:g}), raise "
        f"train.warmup_steps (now {settings.warmup_steps}) or lower train.max_gradient_norm "
        f"(now {settings.max_gradient_norm:g}), and use a new run (--run NEW)"
    )


def _validate_last_step(trainer: Trainer) -> list[Validation]:
    """Return all validations; the last step is evaluated now unless the trainer has done so."""
    history, step = read_validations(trainer.state), trainer.state.global_step
    if not history or history[-1].step != step:
        history.append(Validation(step, trainer.evaluate()["eval_loss"]))
    return history


def _move_adapter(trainer: Trainer, recipe: Recipe, history: list[Validation], folder: Path) -> Validation:
    """Move the result to `folder/adapter`; return the validation of the weights in it."""
    result = folder / artifacts.SCRATCH / "adapter"
    if recipe.train.keep == "best":
        selected = find_lowest(history)
    else:
        selected = history[-1]
        _save(trainer, recipe, result)
    if is_main_process():
        if recipe.train.keep == "best":  # copied: after being killed right here, the next call must find it again
            best = folder / artifacts.SCRATCH / "best" / f"step-{selected.step}"
            shutil.copytree(best, result, dirs_exist_ok=True)
        shutil.rmtree(folder / "adapter", ignore_errors=True)  # left by an attempt that ended before its manifest
        result.replace(folder / "adapter")
    return selected


def _save(trainer: Trainer, recipe: Recipe, folder: Path) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    save_publishable_adapter(model, folder, recipe.base, recipe.revision)


def _read_step_losses(trainer: Trainer) -> list[float]:
    """Return the loss of every step, including those before a resume, which the trainer's own mean leaves out."""
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
