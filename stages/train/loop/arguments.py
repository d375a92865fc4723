"""The recipe as TRL's SFTConfig, and the LoRA+ optimizer."""

import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from trl import SFTConfig

from tuneline.configs.recipe import Recipe
from tuneline.configs.training import Train
from tuneline.core.environment import read_variable
from tuneline.stages.train.distributed.fsdp2 import build_fsdp_arguments
from tuneline.stages.train.distributed.placement import is_sharded, rows_per_process

MAX_CHECKPOINTS = 2


def build_training_arguments(recipe: Recipe, output: Path, rows: int, model: PeftModel) -> SFTConfig:
    """Return the trainer's arguments for `rows` training rows; checkpoints are written to `output`.

    Raises:
        BadRecipe: the rows of a step cannot be shared out evenly among the processes.
    """
    settings, on_gpu = recipe.train, torch.cuda.is_available()
    process_rows = rows_per_process(recipe, int(read_variable("WORLD_SIZE", "1")))
    micro_batch_rows = recipe.compute.micro_batch_rows or process_rows
    epoch_steps = math.ceil(rows / settings.batch_rows)
    sharding = build_fsdp_arguments(model, checkpointing=on_gpu) if is_sharded() else {}
    return SFTConfig(
        output_dir=str(output),
        per_device_train_batch_size=micro_batch_rows,
        per_device_eval_batch_size=micro_batch_rows,
        gradient_accumulation_steps=process_rows // micro_batch_rows,
        # The trainer counts the packed sequences itself.
        max_steps=settings.max_steps or (-1 if settings.packing else math.ceil(settings.epochs * epoch_steps)),
        num_train_epochs=settings.epochs,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        optim=choose_optimizer(on_gpu=on_gpu, sharded=is_sharded()),
        bf16=on_gpu,
        tf32=on_gpu or None,
        use_cpu=not on_gpu,
        # `prepare` has dropped rows that are too long; nothing is truncated here.
        max_length=recipe.data.max_tokens if settings.packing else None,
        packing=settings.packing,
        eval_packing=False,
        activation_checkpointing=on_gpu and not sharding,
        router_aux_loss_coef=0.0,  # transformers computes none for Llama 4, the only mixture of experts trained here
        train_sampling_strategy="group_by_length",
        dataloader_num_workers=0,
        save_steps=settings.save_steps,
        save_total_limit=MAX_CHECKPOINTS,
        eval_strategy="steps",
        eval_steps=settings.evaluate_steps,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would log a mean in place of a loss that is not finite
        report_to=[],
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        **_build_schedule(settings),
        **sharding,
    )


def _build_schedule(settings: Train) -> dict[str, Any]:
    floor = settings.final_learning_rate
    return {
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr" if floor else settings.schedule,
        "lr_scheduler_kwargs": {"min_lr": floor} if floor else {},
        "warmup_steps": settings.warmup_steps,
    }


def choose_optimizer(*, on_gpu: bool, sharded: bool) -> str:
    """Return the trainer's name of the AdamW that works here.

    bitsandbytes 0.50's 8-bit and paged optimizers refuse the DTensors of a sharded model at the first step.
    """
    if sharded:
        return "adamw_torch_fused"
    return "paged_adamw_8bit" if on_gpu else "adamw_torch"


def make_lora_plus_optimizer(model: PeftModel, *, settings: Train) -> torch.optim.Optimizer:
    """Return the trainer's default optimizer with a higher learning rate for the adapter's B matrices."""
    optimizer_class: Any = torch.optim.AdamW
    name = choose_optimizer(on_gpu=torch.cuda.is_available(), sharded=is_sharded())
    if name == "paged_adamw_8bit":
        from bitsandbytes.optim import PagedAdamW8bit

        optimizer_class = PagedAdamW8bit
    return create_loraplus_optimizer(
        model,
        optimizer_cls=optimizer_class,
        lr=settings.learning_rate,
        loraplus_lr_ratio=settings.lora_plus,
        weight_decay=settings.weight_decay,
        **({"fused": True} if name == "adamw_torch_fused" else {}),
    )
