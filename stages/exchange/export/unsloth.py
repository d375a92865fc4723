"""A script for Unsloth, its settings, and rows as token ids: the very tokens and loss that Tuneline trains on."""

from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRequest
from tuneline.stages.exchange.export.plan import SPLITS, Export, ExportPlan
from tuneline.stages.prepare.prepared_run import TEMPLATE, load_tools
from tuneline.stages.prepare.rendering.renderer import Renderer

SCRIPT, SETTINGS = "train.py", "settings.json"
SOURCE = Path(__file__).with_name("unsloth_script.py")
IGNORED = -100
"""The label of a token that is not in the loss, as PyTorch's cross entropy has it."""


def export(plan: ExportPlan) -> Export:
    """Return `train.py`, `settings.json` and the rows as `input_ids` and `labels`."""
    if plan.train.method == "full":
        raise BadRequest("train.method: full: the script for Unsloth trains adapters; use lora or qlora")
    renderer = Renderer(plan.base_folder, load_tools(plan.prepared.path), plan.prepared.path / TEMPLATE)
    files: dict[str, Any] = {SCRIPT: SOURCE.read_text("utf-8"), SETTINGS: _build_settings(plan)}
    for split, name in SPLITS.items():
        rendered = renderer.batch(plan.rows[split])
        files[name] = [{"input_ids": row.ids, "labels": _labels(row.ids, row.mask)} for row in rendered]
    return Export(files, plan.notes(), f"cd {plan.folder} && python {SCRIPT}")


def _labels(ids: list[int], mask: list[int]) -> list[int]:
    return [token if in_loss else IGNORED for token, in_loss in zip(ids, mask, strict=True)]


def _build_settings(plan: ExportPlan) -> dict[str, Any]:
    """Return the arguments of the calls in the script, by call."""
    train = plan.train
    model = {"model_name": plan.base, "max_seq_length": plan.recipe.data.max_tokens, "dtype": None}
    adapter: dict[str, Any] = {
        "r": train.rank,
        "lora_alpha": train.alpha,
        "lora_dropout": train.dropout,
        "target_modules": plan.target_modules(),
        "modules_to_save": plan.saved_modules() or None,
        "bias": "none",
        "use_gradient_checkpointing": "unsloth",
        "random_state": train.seed,
    }
    floor = train.final_learning_rate
    trainer = {
        "output_dir": "output",
        "per_device_train_batch_size": plan.micro_batch_rows,
        "per_device_eval_batch_size": plan.micro_batch_rows,
        "gradient_accumulation_steps": plan.accumulation_steps,
        "num_train_epochs": train.epochs,
        "max_steps": train.max_steps or -1,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr" if floor else train.schedule,
        "lr_scheduler_kwargs": {"min_lr": floor} if floor else {},
        "warmup_steps": train.warmup_steps,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_gradient_norm,
        "save_steps": train.save_steps,
        "eval_strategy": "steps",
        "eval_steps": train.evaluate_steps,
        "load_best_model_at_end": train.keep == "best",
        "optim": "adamw_8bit",
        "seed": train.seed,
        "logging_steps": 1,
        "report_to": "none",
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    revision = {"revision": plan.recipe.revision} if plan.recipe.revision and not plan.model else {}
    return {
        "model": model | revision | {"load_in_4bit": train.method == "qlora"},
        "adapter": adapter,
        "trainer": trainer,
    }
