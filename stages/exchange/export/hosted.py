"""Files and job settings of OpenAI's and Together's fine-tuning.

The job's `training_file` and `validation_file` are names of the files beside it; the services take the ids that an
upload returns.
"""

import json
from typing import Any

from tuneline.configs.training import Train
from tuneline.core.errors import BadRequest
from tuneline.stages.exchange.export.plan import SPLITS, ChatRow, Export, ExportPlan

JOB = "job.json"
FEWEST_ROWS = 10
"""Rows that OpenAI's fine-tuning takes at least (its guide to supervised fine-tuning, read in November 2026)."""
TOGETHER_SCHEDULES = ("cosine", "linear")


def export_openai(plan: ExportPlan) -> Export:
    """Return the rows in OpenAI's format, and the arguments of `client.fine_tuning.jobs.create`."""
    files = _rows(plan, "OpenAI")
    if len(files[SPLITS["train"]]) < FEWEST_ROWS:
        raise BadRequest(f"data.sources: {len(files[SPLITS['train']])} rows; OpenAI takes {FEWEST_ROWS} at least")
    train = plan.train
    epochs = max(1, round(train.epochs))
    hyperparameters = {"n_epochs": epochs, "batch_size": train.batch_rows, "learning_rate_multiplier": "auto"}
    files[JOB] = {
        "model": plan.model,
        "training_file": SPLITS["train"],
        "validation_file": SPLITS["validation"],
        "suffix": plan.recipe.name,
        "seed": train.seed,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    }
    notes = [
        *_lost(train, ["method", "rank", "alpha", "dropout", "targets", "modules_to_save", "lora_plus", "max_steps"]),
        "train.learning_rate: OpenAI takes a multiplier of its own rate: left to it",
    ]
    if epochs != train.epochs:
        notes.append(f"train.epochs: {train.epochs:g}: whole epochs only: {epochs}")
    return Export(files, plan.notes(*notes), "upload both files with purpose fine-tune, then create the job")


def export_together(plan: ExportPlan) -> Export:
    """Return the rows in Together's format, and the arguments of `client.fine_tuning.create`."""
    train = plan.train
    if train.schedule not in TOGETHER_SCHEDULES:
        raise BadRequest(f"train.schedule: {train.schedule}: Together has {' and '.join(TOGETHER_SCHEDULES)}")
    files, steps = _rows(plan, "Together"), plan.steps
    job: dict[str, Any] = {
        "model": plan.base,
        "training_file": SPLITS["train"],
        "validation_file": SPLITS["validation"],
        "n_epochs": max(1, round(train.epochs)),
        "batch_size": train.batch_rows,
        "max_seq_length": plan.recipe.data.max_tokens,
        "packing": train.packing,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.schedule,
        "min_lr_ratio": train.final_learning_rate / train.learning_rate,
        "warmup_ratio": round(min(1.0, train.warmup_steps / steps), 4),
        "max_grad_norm": train.max_gradient_norm,
        "weight_decay": train.weight_decay,
        "n_checkpoints": max(1, steps // train.save_steps),
        "n_evals": max(1, steps // train.evaluate_steps),
        "train_on_inputs": False,
        "suffix": plan.recipe.name,
        "random_seed": train.seed,
        "lora": train.method != "full",
    }
    if train.method != "full":
        job |= {"lora_r": train.rank, "lora_alpha": train.alpha, "lora_dropout": train.dropout}
        job["lora_trainable_modules"] = ",".join(plan.target_modules())
    if train.patience:
        job |= {"early_stopping_enabled": True, "early_stopping_patience": train.patience}
    files[JOB] = job
    notes = _lost(train, ["modules_to_save", "lora_plus", "max_steps", "keep"])
    if train.method == "qlora":
        notes.append("train.method: qlora: Together trains LoRA on a 16-bit base")
    if job["n_epochs"] != train.epochs:
        notes.append(f"train.epochs: {train.epochs:g}: whole epochs only: {job['n_epochs']}")
    return Export(files, plan.notes(*notes), "`together files upload` both files, then create the job with their ids")


def _lost(train: Train, names: list[str]) -> list[str]:
    """Return a note for each of these settings that is not the default."""
    default = Train()
    return [
        f"train.{name}: {getattr(train, name)}: no such setting there"
        for name in names
        if getattr(train, name) != getattr(default, name)
    ]


def _rows(plan: ExportPlan, service: str) -> dict[str, Any]:
    plan.refuse_texts(service)
    hides_tools = plan.recipe.data.catalogue == "learned"
    return {
        name: [to_openai(row, hides_tools=hides_tools) for row in plan.chat_rows(split)]
        for split, name in SPLITS.items()
    }


def to_openai(row: ChatRow, *, hides_tools: bool = False) -> dict[str, Any]:
    """Return a row in OpenAI's chat format for fine-tuning: arguments are JSON text."""
    messages = [_to_message(message) for message in row.messages]
    return {"messages": messages} | ({"tools": row.tools} if row.tools and not hides_tools else {})


def _to_message(message: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in message.items() if key != "reasoning_content"}
    if calls := message.get("tool_calls"):
        kept["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {
                    "name": call["function"]["name"],
                    "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
                },
            }
            for call in calls
        ]
    return kept
