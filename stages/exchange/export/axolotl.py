"""Axolotl's YAML, and JSON lines for its `chat_template` datasets.

Arguments of calls and tools are JSON text: Axolotl parses them, and the table that it loads rows into would give every
call the arguments of all others.
"""

import json
from typing import Any

from tuneline.stages.exchange.export.plan import SPLITS, ChatRow, Export, ExportPlan

CONFIG = "axolotl.yaml"
TEMPLATE_FILE = "chat_template.jinja"
IN_LOSS = "train"
"""The key of a message that says whether it is in the loss; Tuneline reads it too."""


def export(plan: ExportPlan) -> Export:
    """Return `axolotl.yaml` and its data."""
    files: dict[str, Any] = {CONFIG: _build_config(plan)}
    for split, name in SPLITS.items():
        files[name] = [_to_row(row) for row in plan.chat_rows(split)]
        files[f"texts-{name}"] = [{"text": text} for text in plan.texts(split)]
    if plan.template:
        files[TEMPLATE_FILE] = plan.template
    files = {name: content for name, content in files.items() if content}
    return Export(files, plan.notes(), f"cd {plan.folder} && axolotl train {CONFIG}")


def _to_row(row: ChatRow) -> dict[str, Any]:
    messages = [_to_message(message) for message in row.messages]
    return {"messages": messages} | ({"tools": json.dumps(row.tools, ensure_ascii=False)} if row.tools else {})


def _to_message(message: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in message.items() if key != "weight"}
    if message.get("weight") == 0:
        kept[IN_LOSS] = False
    if calls := message.get("tool_calls"):
        kept["tool_calls"] = [call | {"function": _with_text_arguments(call["function"])} for call in calls]
    return kept


def _with_text_arguments(function: dict[str, Any]) -> dict[str, Any]:
    return function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}


def _build_config(plan: ExportPlan) -> dict[str, Any]:
    train = plan.train
    config: dict[str, Any] = {"base_model": plan.base}
    if plan.recipe.revision:
        config["revision_of_model"] = plan.recipe.revision
    config |= _adapter(plan)
    config["datasets"] = _list_datasets(plan, "train")
    config["test_datasets"] = _list_datasets(plan, "validation")
    config |= _template_settings(plan)
    config |= {
        "sequence_len": plan.recipe.data.max_tokens,
        "sample_packing": train.packing,
        "micro_batch_size": plan.micro_batch_rows,
        "gradient_accumulation_steps": plan.accumulation_steps,
        "num_epochs": train.epochs,
        **({"max_steps": train.max_steps} if train.max_steps else {}),
        "optimizer": "adamw_torch_fused",
        "learning_rate": train.learning_rate,
        "lr_scheduler": train.schedule,
        **(
            {"cosine_min_lr_ratio": train.final_learning_rate / train.learning_rate}
            if train.final_learning_rate
            else {}
        ),
        "warmup_steps": train.warmup_steps,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_gradient_norm,
        "save_steps": train.save_steps,
        "eval_steps": train.evaluate_steps,
        **({"early_stopping_patience": train.patience} if train.patience else {}),
        **({"load_best_model_at_end": True} if train.keep == "best" else {}),
        "logging_steps": 1,
        "gradient_checkpointing": True,
        "bf16": "auto",
        "seed": train.seed,
        "output_dir": "./output",
    }
    return config


def _adapter(plan: ExportPlan) -> dict[str, Any]:
    train = plan.train
    if train.method == "full":
        return {}
    settings: dict[str, Any] = {
        "adapter": train.method,
        "load_in_4bit": train.method == "qlora",
        "lora_r": train.rank,
        "lora_alpha": train.alpha,
        "lora_dropout": train.dropout,
        "lora_target_modules": plan.target_modules(),
    }
    if train.modules_to_save:
        settings["lora_modules_to_save"] = plan.saved_modules()
    return settings | ({"loraplus_lr_ratio": train.lora_plus} if train.lora_plus != 1 else {})


def _list_datasets(plan: ExportPlan, split: str) -> list[dict[str, Any]]:
    """Return the entries of `datasets`: the assistant's turns are in the loss, and the token that ends each."""
    name = SPLITS[split]
    chat = {"path": name, "ds_type": "json", "split": "train", "type": "chat_template", "field_messages": "messages"}
    chat |= {"message_field_training": IN_LOSS}
    text = {"path": f"texts-{name}", "ds_type": "json", "split": "train", "type": "completion"}
    in_loss: dict[str, Any] = {"roles_to_train": ["assistant"], "train_on_eos": "turn"}
    return [
        *([chat | in_loss] if plan.chat_rows(split) else []),
        *([text] if plan.texts(split) else []),
    ]


def _template_settings(plan: ExportPlan) -> dict[str, str]:
    if plan.template:
        return {"chat_template": "jinja", "chat_template_jinja": TEMPLATE_FILE}
    return {"chat_template": "tokenizer_default"}
