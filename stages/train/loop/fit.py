"""The training itself: TRL's SFTTrainer on rows that are rendered and masked by us."""

import json
import math
import os
import shutil
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback
from transformers.trainer_utils import set_seed
from trl import SFTConfig

from tuneline.configs.recipe import Recipe
from tuneline.configs.training import Train
from tuneline.core import artifacts
from tuneline.core.errors import BadRecipe, StageFailed
from tuneline.core.events import Events
from tuneline.stages.checkpoints.lora_adapter import WEIGHTS
from tuneline.stages.prepare.prepared_run import TEMPLATE, load_tools, read_prepared
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.train.distributed import fsdp2
from tuneline.stages.train.distributed.allocator import return_freed_memory
from tuneline.stages.train.distributed.placement import rows_each
from tuneline.stages.train.loop.callbacks import Checkpoints, Report, StopOnSignal
from tuneline.stages.train.loop.checkpoints import newest_whole
from tuneline.stages.train.loop.flops import flops_per_token
from tuneline.stages.train.loop.loss import IGNORED
from tuneline.stages.train.loop.monitoring import Alerts, Best, Divergence, lowest, validations
from tuneline.stages.train.loop.samples import Samples
from tuneline.stages.train.loop.trainer import Trainer, from_first, is_first, save_adapter
from tuneline.stages.train.model.base_model import fill, load

CHECKPOINTS_KEPT = 2
LAST_STEPS = 10
PADDED_ROWS = 8
"""So many rows are padded together to see whether what is learned stays learned."""


def fit(
    recipe: Recipe, base: Path, prepared: Path, folder: Path, events: Events, start: Path | None = None
) -> dict[str, float]:
    """Train to the end, from the newest whole checkpoint if there is one; the adapter lies in `folder/adapter`.

    `start` is an adapter to go on from. Returns train_loss (of the last steps) and validation_loss, both in nats per
    learned token, perplexity, the step they belong to, steps, epochs, and how many parameters there are, and are
    trained.

    Raises:
        BadRecipe: what is asked for, this base cannot do. StageFailed: stopped by SIGTERM, after a checkpoint; or
        diverged, the last good checkpoint kept.
    """
    torch.set_num_threads(recipe.compute.threads or len(os.sched_getaffinity(0)))
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    # A debugging aid that took 29 % of a step on the CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    set_seed(recipe.train.seed)
    settings = recipe.train
    renderer = Renderer(base, load_tools(prepared), prepared / TEMPLATE)
    rows = {name: _dataset(renderer, prepared / f"{name}.jsonl") for name in ("train", "validation")}
    model = load(settings, base, start, events, sharded=is_sharded())
    return_freed_memory(sum(parameter.numel() for parameter in model.parameters()))
    scratch = folder / artifacts.SCRATCH
    stop, divergence = StopOnSignal(), Divergence()
    trainer = Trainer(
        batch_rows=settings.batch_rows,
        make_optimizer=partial(_lora_plus, settings=settings) if settings.lora_plus > 1 else None,
        model=model,
        args=_arguments(recipe, scratch / "checkpoints", len(rows["train"]), model),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=renderer.tokenizer,
    )
    refuse_hiding_padding(trainer.data_collator, rows["train"], renderer.tokenizer)
    trainer.remove_callback(PrinterCallback)
    flops = flops_per_token(model, model.config, [len(ids) for ids in rows["train"]["input_ids"]])
    best = Best(settings, scratch / "best", partial(_save, trainer, recipe), events)
    for callback in (
        Report(events, flops, lambda: trainer.learned),
        divergence,
        Alerts(recipe.watch, events),
        best,
        Checkpoints(events),
        Samples(rows["validation"], renderer.tokenizer, events, sharded=is_sharded()),
        stop,
        *([fsdp2.Shares(events)] if is_sharded() else []),
    ):
        trainer.add_callback(callback)
    _train_in_fp32(model)
    if start:
        fill(model, start, str(model.stored_prefix))  # only here: TRL has rounded what was there before to bf16
    trained, total = model.get_nb_trainable_parameters()
    checkpoint = from_first(lambda: newest_whole(scratch / "checkpoints", events))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    step = trainer.state.global_step
    if divergence.why:
        raise StageFailed(_advice(divergence.why, step, scratch / "checkpoints", settings))
    if stop.stopped and step < trainer.state.max_steps:
        last = max(_steps_kept(scratch / "checkpoints"), default=0)  # not this step, while a divergence is suspected
        raise StageFailed(f"stopped by SIGTERM at step {step}; the same command goes on from step {last}")
    validated = validations(trainer.state)
    if not validated or validated[-1][0] != step:  # of the last step there may be one
        validated.append((step, trainer.evaluate()["eval_loss"]))
    kept, validation_loss = validated[-1]
    result = scratch / "adapter"
    if settings.keep == "best":
        kept, validation_loss = lowest(validated)
    else:
        _save(trainer, recipe, result)
    if is_first():
        if settings.keep == "best":  # copied: a call that is killed behind this must find it again
            shutil.copytree(scratch / "best" / f"step-{kept}", result, dirs_exist_ok=True)
        shutil.rmtree(folder / "adapter", ignore_errors=True)  # of an attempt that ended before its manifest
        result.replace(folder / "adapter")
    return {
        "train_loss": statistics.mean(_losses(trainer)[-LAST_STEPS:]),
        "validation_loss": validation_loss,
        "perplexity": math.exp(validation_loss),
        "steps": step,
        "kept_step": kept,
        "epochs": round(trainer.state.epoch or 0, 3),
        "parameters_trained": trained,
        "parameters_total": total,
    }


def _losses(trainer: Trainer) -> list[float]:
    """Of every step, those before a resume too; the trainer's own mean forgets them."""
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def _dataset(renderer: Renderer, file: Path) -> Dataset:
    rendered = [renderer(row) for row in read_prepared(file)]
    labels = [[i if learned else IGNORED for i, learned in zip(r.ids, r.mask, strict=True)] for r in rendered]
    return Dataset.from_dict({"input_ids": [r.ids for r in rendered], "labels": labels})


def _lora_plus(model: PeftModel, *, settings: Train) -> torch.optim.Optimizer:
    """The optimizer the trainer would make, with a higher learning rate for the adapter's B."""
    kind: Any = torch.optim.AdamW
    if torch.cuda.is_available():
        from bitsandbytes.optim import PagedAdamW8bit

        kind = PagedAdamW8bit
    return create_loraplus_optimizer(
        model,
        optimizer_cls=kind,
        lr=settings.learning_rate,
        loraplus_lr_ratio=settings.lora_plus,
        weight_decay=settings.weight_decay,
    )


def _train_in_fp32(model: PeftModel) -> None:
    """TRL casts a QLoRA adapter to bf16, while PEFT loads a checkpoint's in fp32: a resumed run would differ."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _arguments(recipe: Recipe, output: Path, rows: int, model: PeftModel) -> SFTConfig:
    settings, on_gpu = recipe.train, torch.cuda.is_available()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    each = rows_each(recipe, world)
    micro = recipe.compute.micro_batch_rows or each
    epoch_steps = math.ceil(rows / settings.batch_rows)
    sharding = fsdp2.settings(model, checkpointing=on_gpu) if is_sharded() else {}
    return SFTConfig(
        output_dir=str(output),
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=each // micro,
        # How many packed sequences there are, the trainer finds out.
        max_steps=settings.max_steps or (-1 if settings.packing else math.ceil(settings.epochs * epoch_steps)),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr" if settings.final_learning_rate else settings.schedule,
        lr_scheduler_kwargs={"min_lr": settings.final_learning_rate} if settings.final_learning_rate else {},
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        optim="paged_adamw_8bit" if on_gpu else "adamw_torch",
        bf16=on_gpu,
        tf32=on_gpu or None,
        use_cpu=not on_gpu,
        # `prepare` has left out what is too long; nothing is cut here.
        max_length=recipe.data.max_tokens if settings.packing else None,
        packing=settings.packing,
        eval_packing=False,
        activation_checkpointing=on_gpu and not sharding,
        router_aux_loss_coef=0.0,  # transformers makes none for Llama 4, the one mixture that is trained here
        train_sampling_strategy="group_by_length",
        dataloader_num_workers=0,
        save_steps=settings.save_steps,
        save_total_limit=CHECKPOINTS_KEPT,
        eval_strategy="steps",
        eval_steps=settings.evaluate_steps,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would show a mean in the place of a loss that is no number
        report_to=[],
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        **sharding,
    )


def _save(trainer: Trainer, recipe: Recipe, folder: Path) -> None:
    """The adapter as it is published: whole, named after the base's own weights, no path of this machine in it."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    for config in model.peft_config.values():
        config.base_model_name_or_path = recipe.base
        config.revision = recipe.revision
    temporary = folder.with_name(f".{folder.name}")
    if is_first():
        shutil.rmtree(temporary, ignore_errors=True)
    save_adapter(model, temporary)
    if not is_first():
        return
    if prefix := getattr(model, "stored_prefix", ""):
        named = {n.replace("base_model.model.", f"base_model.model.{prefix}", 1): w for n, w in _weights(temporary)}
        save_file(named, temporary / WEIGHTS, {"format": "pt"})
    config_file = temporary / "adapter_config.json"
    config = json.loads(config_file.read_text())
    listed = ("target_modules", "modules_to_save")
    ordered = {
        key: sorted(value) if key in listed and isinstance(value, list) else value for key, value in config.items()
    }
    config_file.write_text(json.dumps(ordered, indent=1, sort_keys=True))  # PEFT writes a set, in any order
    (temporary / "README.md").unlink(missing_ok=True)  # PEFT's is an empty form; the model card comes from evaluate
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def _weights(folder: Path) -> list[tuple[str, torch.Tensor]]:
    return list(load_file(folder / WEIGHTS).items())


def _advice(why: str, step: int, checkpoints: Path, settings: Train) -> str:
    kept = max(_steps_kept(checkpoints), default=0)
    last = f"checkpoint-{kept} in {checkpoints} is the last good one" if kept else "there is no checkpoint before it"
    return (
        f"diverged at step {step}: {why}; {last}. The same command would go on from there and diverge again: lower "
        f"train.learning_rate (now {settings.learning_rate:g}; try {settings.learning_rate / 4:g}), raise "
        f"train.warmup_steps (now {settings.warmup_steps}) or lower train.max_gradient_norm "
        f"(now {settings.max_gradient_norm:g}), and use a new run (--run NEW)"
    )


def _steps_kept(checkpoints: Path) -> list[int]:
    return [int(checkpoint.name.split("-")[1]) for checkpoint in checkpoints.glob("checkpoint-*")]


def refuse_hiding_padding(collator: Any, rows: Dataset, tokenizer: Any) -> None:
    """Raise BadRecipe if padding makes the loss pass over a token that is learned, as where it is the end of turn."""
    some = [rows[i] for i in range(min(PADDED_ROWS, len(rows)))]
    wanted = sum(label != IGNORED for row in some for label in row["labels"][1:])
    found = int((collator(some)["labels"][:, 1:] != IGNORED).sum())
    if found < wanted:
        raise BadRecipe(
            f"base: its tokenizer pads with {tokenizer.pad_token!r}, and ends a turn with {tokenizer.eos_token!r}: of "
            f"{wanted} learned tokens padding hides {wanted - found}, so that the model would never learn to stop; "
            "give the tokenizer a pad token of its own"
        )


def is_sharded() -> bool:
    """Whether this process holds a shard of the model: FSDP2 was asked for by the launcher."""
    return os.environ.get("TUNELINE_STRATEGY") == "fsdp2"
