"""LLaMA-Factory's YAML, `dataset_info.json` and conversations in its ShareGPT form.

It writes prompts by templates of its own. Without `template` it derives one from the base's, which has no tool calls of
the base's own form.
"""

import json
from typing import Any

from tuneline.stages.exchange.export.plan import SPLITS, ChatRow, Export, ExportPlan

CONFIG, DATASETS = "llamafactory.yaml", "dataset_info.json"
TAGS = {"user": "human", "tool": "observation", "assistant": "gpt"}
"""Its tags, by role."""
COLUMNS = {"messages": "conversations", "system": "system", "tools": "tools"}
NOT_ALTERNATING = "turns do not alternate between the user or a tool and the assistant"
WITH_WEIGHT = "an answer is kept out of the loss, which LLaMA-Factory has no words for"
WITH_TEXT = "an answer has text beside its calls"


def export(plan: ExportPlan) -> Export:
    """Return `llamafactory.yaml`, `dataset_info.json` and the data; rows that it would skip are left out."""
    files: dict[str, Any] = {CONFIG: _build_config(plan), DATASETS: {}}
    for split, name in SPLITS.items():
        rows = [_to_row(row, plan) for row in plan.chat_rows(split)]
        if chats := [row for row in rows if row]:
            files[name] = chats
            files[DATASETS][f"tuneline_{split}"] = {"file_name": name, "formatting": "sharegpt", "columns": COLUMNS}
        if texts := [{"text": text} for text in plan.texts(split)]:
            plan.left_out["plain text, which LLaMA-Factory trains on in a stage of its own (pt)"] += len(texts)
    return Export(files, plan.notes(*_notes(plan)), f"cd {plan.folder} && llamafactory-cli train {CONFIG}")


def _notes(plan: ExportPlan) -> list[str]:
    notes = ["prompts are written by a template that LLaMA-Factory derives from the base's; compare before you train"]
    if plan.template:
        notes.append("template: not written; LLaMA-Factory takes names of its own templates")
    if any(row.tools for row in plan.chat_rows("train")):
        notes.append(
            "tool calls are written in LLaMA-Factory's own form, not in the base's; set `template` to its name"
        )
    return notes


def _to_row(row: ChatRow, plan: ExportPlan) -> dict[str, Any] | None:
    """Return a row in its form; None for one that it cannot say, which is counted."""
    messages = row.messages
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    turns = messages[1:] if system else messages
    asked = [message["role"] == "assistant" for message in turns]
    reason = ""
    if asked != [number % 2 == 1 for number in range(len(turns))]:
        reason = NOT_ALTERNATING
    elif any(message.get("weight") == 0 for message in turns):
        reason = WITH_WEIGHT
    elif any(message.get("tool_calls") and message.get("content") for message in turns):
        reason = WITH_TEXT
    if reason:
        plan.left_out[reason] += 1
        return None
    tools = [tool["function"] for tool in row.tools]
    return {
        "conversations": [_to_turn(message) for message in turns],
        "system": system,
        "tools": json.dumps(tools, ensure_ascii=False) if tools else "",
    }


def _to_turn(message: dict[str, Any]) -> dict[str, str]:
    if calls := message.get("tool_calls"):
        return {"from": "function_call", "value": json.dumps([call["function"] for call in calls], ensure_ascii=False)}
    return {"from": TAGS[message["role"]], "value": message["content"]}


def _build_config(plan: ExportPlan) -> dict[str, Any]:
    train = plan.train
    config: dict[str, Any] = {"model_name_or_path": plan.base}
    if plan.recipe.revision:
        config["model_revision"] = plan.recipe.revision
    config |= {"stage": "sft", "do_train": True, "finetuning_type": "full" if train.method == "full" else "lora"}
    config |= _adapter(plan)
    config |= {
        "dataset": "tuneline_train",
        "eval_dataset": "tuneline_validation",
        "dataset_dir": ".",
        "cutoff_len": plan.recipe.data.max_tokens,
        **({"packing": True, "neat_packing": True} if train.packing else {}),
        "per_device_train_batch_size": plan.micro_batch_rows,
        "gradient_accumulation_steps": plan.accumulation_steps,
        "num_train_epochs": train.epochs,
        **({"max_steps": train.max_steps} if train.max_steps else {}),
        "optim": "adamw_torch",
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr" if train.final_learning_rate else train.schedule,
        **({"lr_scheduler_kwargs": {"min_lr": train.final_learning_rate}} if train.final_learning_rate else {}),
        "warmup_steps": train.warmup_steps,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_gradient_norm,
        "save_steps": train.save_steps,
        "eval_strategy": "steps",
        "eval_steps": train.evaluate_steps,
        **({"early_stopping_steps": train.patience} if train.patience else {}),
        **({"load_best_model_at_end": True} if train.keep == "best" else {}),
        "logging_steps": 1,
        "report_to": "none",
        "bf16": True,
        "seed": train.seed,
        "output_dir": "output",
    }
    return config


def _adapter(plan: ExportPlan) -> dict[str, Any]:
    train = plan.train
    if train.method == "full":
        return {}
    settings: dict[str, Any] = {
        "lora_rank": train.rank,
        "lora_alpha": train.alpha,
        "lora_dropout": train.dropout,
        "lora_target": ",".join(plan.target_modules()),
    }
    if train.method == "qlora":
        settings |= {"quantization_bit": 4, "quantization_method": "bnb", "double_quantization": True}
    if train.modules_to_save:
        settings["additional_target"] = ",".join(plan.saved_modules())
    return settings | ({"loraplus_lr_ratio": train.lora_plus} if train.lora_plus != 1 else {})
