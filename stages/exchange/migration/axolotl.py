"""Axolotl's YAML into a recipe (its schema of version 0.19)."""

from typing import Any

import jsonschema_rs

from tuneline.core.errors import BadRequest
from tuneline.stages.exchange.migration.settings import Migration
from tuneline.stages.train.model.adapter_targets import DENSE_MODULES

RENAMED = {
    "base_model": "base",
    "revision_of_model": "revision",
    "sequence_len": "data.max_tokens",
    "sample_packing": "train.packing",
    "lora_r": "train.rank",
    "lora_alpha": "train.alpha",
    "lora_dropout": "train.dropout",
    "loraplus_lr_ratio": "train.lora_plus",
    "num_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.max_gradient_norm",
    "early_stopping_patience": "train.patience",
    "seed": "train.seed",
}
REFUSED = {
    "rl": "trains on preferences or rewards",
    "reward_model": "trains a reward model",
    "process_reward_model": "trains a reward model",
    "num_labels": "trains a classifier",
    "processor_type": "trains on images or sounds",
    "diffusion": "trains a diffusion model",
}
"""Keys of trainings that no recipe describes."""
TASKS = ("Classification", "CausalLMWithValueHead")
"""Ends of `model_type` that name another task."""
UNNEEDED = {
    "wandb_": "W&B is used if WANDB_API_KEY is set",
    "mlflow_": "metrics are in the run's events.jsonl",
    "comet_": "metrics are in the run's events.jsonl",
    "swanlab_": "metrics are in the run's events.jsonl",
    "trackio_": "metrics are in the run's events.jsonl",
    "fsdp_": "several GPUs train by DDP or FSDP2: compute.strategy",
    "liger_": "a faster kernel, which does not change the result",
    "dataset_": "rows are prepared again when the data changed",
    "gradient_checkpointing_": "it is always on where a GPU trains",
    "use_swanlab": "metrics are in the run's events.jsonl",
    "use_tensorboard": "metrics are in the run's events.jsonl",
    **dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "use_kernels"), "a faster kernel"),
    **dict.fromkeys(("fused_attn_kernel", "cut_cross_entropy", "flash_attn_cross_entropy"), "a faster kernel"),
    **dict.fromkeys(("attn_implementation", "flash_attention", "sdp_attention"), "the fastest attention is chosen"),
    "bf16": "the precision follows from the hardware",
    "special_tokens": "the tokenizer's own tokens are used",
    "resume_from_checkpoint": "the same command resumes",
    "saves_per_epoch": "a checkpoint every train.save_steps steps",
    "evals_per_epoch": "the validation loss every train.evaluate_steps steps",
    "eval_sample_packing": "validation rows are never packed",
    "pad_to_sequence_len": "rows are padded to the longest of a batch",
    "group_by_length": "rows are always grouped by length",
    "model_type": "the architecture follows from the base's config.json",
    "tokenizer_type": "the tokenizer is the base's own",
    "tokenizer_config": "the tokenizer is the base's own",
    "trust_remote_code": "code of a repository is never run",
    "strict": "unknown keys are always errors",
    "skip_prepare_dataset": "rows are always prepared",
    "remove_unused_columns": "rows are always prepared",
    "loss_watchdog_threshold": "watch raises alerts",
    "loss_watchdog_patience": "watch raises alerts",
    "save_total_limit": "the last two checkpoints are kept",
    "save_strategy": "a checkpoint every train.save_steps steps",
    "eval_batch_size": "follows from the hardware",
    "torch_compile": "does not change the result",
    "activation_offloading": "memory follows from the hardware",
    "llama4_linearized_experts": "Llama 4's experts are always split so",
    "shuffle_merged_datasets": "rows are always shuffled",
    "ddp_find_unused_parameters": "several GPUs train by DDP or FSDP2: compute.strategy",
    "hub_model_id": "`tuneline publish` uploads a run",
    "dataloader_num_workers": "rows are in memory",
    "project_name": "a run takes its recipe's name",
}
FORMATS = {"alpaca": "alpaca", "sharegpt": "sharegpt"}
"""Formats by the first word of a dataset's `type`; others are detected by their keys."""


def migrate(migration: Migration) -> None:
    """Fill the migration's recipe from its configuration.

    Raises:
        BadRequest: it is of a training that no recipe describes.
    """
    _refuse(migration)
    migration.carry_renamed({key: value for key, value in RENAMED.items() if key not in ("lora_r", "lora_alpha")})
    _carry_method(migration)
    _carry_batch(migration)
    _carry_rate(migration)
    _carry_data(migration)
    _carry_template(migration)
    for key, setting in {"save_steps": "train.save_steps", "eval_steps": "train.evaluate_steps"}.items():
        steps = migration.get(key)
        if isinstance(steps, int):
            migration.carry(key, setting, steps)
        elif steps:
            migration.skip(key, f"steps, in a whole number: {setting}")
    if migration.get("dataset_exact_deduplication"):
        migration.carry("dataset_exact_deduplication", "data.duplicates", "drop")
    if migration.get("load_best_model_at_end"):
        migration.carry("load_best_model_at_end", "train.keep", "best")
    plugins = [name.rpartition(".")[2] for name in migration.read_names("plugins")]
    if others := [name for name in plugins if name not in ("LigerPlugin", "CutCrossEntropyPlugin")]:
        migration.lose("plugins", f"{', '.join(others)}: no plugins here")
    elif plugins:
        migration.skip("plugins", "faster kernels, which do not change the result")
    migration.finish(UNNEEDED)


def _refuse(migration: Migration) -> None:
    for key, what in REFUSED.items():
        if value := migration.get(key):
            line = migration.lines.get(key)
            raise BadRequest(
                f"{migration.file}:{line}: {key}: {value}: it {what}; a recipe describes supervised training"
            )
    if str(migration.get("model_type", "")).endswith(TASKS):
        raise BadRequest(
            f"{migration.file}: model_type: {migration.get('model_type')}: not a language model's training"
        )


def _carry_method(migration: Migration) -> None:
    adapter = migration.get("adapter")
    if adapter in ("qlora", "lora"):
        in_4_bit = adapter == "qlora" or bool(migration.get("load_in_4bit"))
        migration.carry("adapter", "train.method", "qlora" if in_4_bit else "lora")
        if migration.get("load_in_4bit"):
            migration.skip("load_in_4bit", "train.method says it")
        if migration.get("load_in_8bit"):
            migration.lose("load_in_8bit", "the base is loaded in 16 bit, or in 4 with method qlora")
        migration.carry_renamed({"lora_r": "train.rank", "lora_alpha": "train.alpha"})
        _carry_modules(migration)
    elif adapter:
        migration.lose("adapter", "lora, qlora or none; lora is used")
        migration.recipe.setdefault("train", {})["method"] = "lora"
    else:
        migration.carry("adapter", "train.method", "full")
        for unused in ("lora_r", "lora_alpha", "lora_target_modules", "lora_target_linear", "lora_dropout"):
            if migration.get(unused):
                migration.skip(unused, "no adapter is trained")
        migration.recipe["train"].pop("dropout", None)


def _carry_modules(migration: Migration) -> None:
    if migration.get("lora_target_linear"):
        migration.carry("lora_target_linear", "train.targets", ["attention", "mlp"])
        if migration.get("lora_target_modules"):
            migration.skip("lora_target_modules", "lora_target_linear adapts every Linear")
    elif isinstance(modules := migration.get("lora_target_modules"), list):
        migration.carry_targets("lora_target_modules", [str(module) for module in modules])
    elif modules:
        migration.carry_targets("lora_target_modules", _matching_modules(str(modules)))
    if saved := migration.read_names("lora_modules_to_save"):
        migration.carry_saved_modules("lora_modules_to_save", saved)
    if migration.get("lora_model_dir"):
        migration.lose("lora_model_dir", "make a run of it with `tuneline adopt`, and name that in train.init_from")


def _matching_modules(pattern: str) -> list[str]:
    """Return the module names that a pattern of PEFT matches in some layer; the pattern itself if it is none."""
    names = [f"model.layers.0.self_attn.{name}" for name in DENSE_MODULES["attention"]]
    names += [f"model.layers.0.mlp.{name}" for name in DENSE_MODULES["mlp"]]
    if pattern == "all-linear":
        return names
    try:
        # Somebody else's expression, which Python's `re` could follow for years; this engine gives up.
        matcher = jsonschema_rs.validator_for({"pattern": f"^(?:{pattern})$"}, offline=True)
    except (jsonschema_rs.ValidationError, ValueError):
        return [pattern]
    return [name for name in names if matcher.is_valid(name) or matcher.is_valid(f"model.language_{name}")] or [pattern]


def _carry_batch(migration: Migration) -> None:
    micro, steps = migration.get("micro_batch_size"), migration.get("gradient_accumulation_steps", 1)
    if isinstance(micro, int) and isinstance(steps, int):
        migration.carry("micro_batch_size", "train.batch_rows", micro * steps)
        if "gradient_accumulation_steps" in migration.values:
            migration.skip("gradient_accumulation_steps", "train.batch_rows has it: rows per step, over all GPUs")
    elif isinstance(rows := migration.get("batch_size"), int):
        migration.carry("batch_size", "train.batch_rows", rows)


def _carry_rate(migration: Migration) -> None:
    try:
        rate = float(migration.get("learning_rate"))
    except (TypeError, ValueError):
        raise BadRequest(f"{migration.file}: learning_rate: {migration.get('learning_rate')!r}: not a number") from None
    migration.carry("learning_rate", "train.learning_rate", rate)
    if schedule := migration.get("lr_scheduler"):
        migration.carry_schedule("lr_scheduler", str(schedule))
    if ratio := migration.read_number("cosine_min_lr_ratio"):
        migration.carry("cosine_min_lr_ratio", "train.final_learning_rate", ratio * rate)
    migration.carry_warmup()
    if optimizer := migration.get("optimizer"):
        migration.carry_optimizer("optimizer", str(optimizer))


def _carry_data(migration: Migration) -> None:
    key = "datasets" if migration.get("datasets") else "pretraining_dataset"
    entries = migration.get(key) or []
    sources = [_to_source(migration, key, entry) for entry in _as_list(entries)]
    if not sources:
        raise BadRequest(f"{migration.file}: datasets: none; there is nothing to train on")
    migration.carry(key, "data.sources", sources)
    tests = [_to_source(migration, "test_datasets", entry) for entry in _as_list(migration.get("test_datasets") or [])]
    if tests:
        migration.carry("test_datasets", "data.validation", tests[0])
    if tests[1:]:
        migration.lose("test_datasets", f"{len(tests)} of them: the first is used")
    share = migration.get("val_set_size", 0)
    if isinstance(share, float) and 0 < share < 1:
        migration.carry("val_set_size", "data.validation_share", share)
    elif isinstance(share, int) and share > 1:
        migration.carry("val_set_size", "data.validation_rows", share)
    elif not tests and "val_set_size" in migration.values:
        migration.lose("val_set_size", "the validation loss is always measured: a tenth of the rows is kept for it")
    if migration.get("train_on_inputs"):
        migration.lose("train_on_inputs", "only the assistant's tokens are in the loss")


def _as_list(entries: Any) -> list[Any]:
    return entries if isinstance(entries, list) else [entries]


def _to_source(migration: Migration, key: str, entry: Any) -> dict[str, Any]:
    """Return a dataset's entry as a source; what the entry says beyond that is lost."""
    entry = entry if isinstance(entry, dict) else {"path": entry}
    if not isinstance(entry.get("path"), str):
        raise BadRequest(f"{migration.file}:{migration.lines.get(key)}: {key}: an entry without a path")
    kind, source = entry.get("type"), dict[str, Any]()
    first = str(kind).partition(".")[0].partition(":")[0]
    if isinstance(kind, dict):
        source |= _columns_of(kind)
    elif first == "completion" or key == "pretraining_dataset":
        source |= {"format": "text", "learn": "continuation"}
        field = entry.get("field") or entry.get("text_column")
        source |= {"columns": {"text": field}} if field and field != "text" else {}
    elif first in FORMATS:
        source["format"] = FORMATS[first]
    elif first == "chat_template" and (name := entry.get("field_messages", "messages")) != "messages":
        source["columns"] = {"conversations" if name == "conversations" else "messages": name}
        source = {} if name == "conversations" else source
    elif first not in ("chat_template", "None", "input_output", "alpaca_chat", "oasst"):
        migration.lose(key, f"{entry['path']}: type {kind}: its format is detected by its keys")
    if (split := entry.get("split")) not in (None, "train"):
        migration.lose(key, f"{entry['path']}: split {split}: name the file of that split")
    if (roles := entry.get("roles_to_train")) not in (None, [], ["assistant"], ["gpt", "assistant"], ["gpt"]):
        migration.lose(key, f"{entry['path']}: roles_to_train: {roles}: only the assistant's turns are in the loss")
    return migration.carry_dataset(key, entry["path"], source)


def _columns_of(kind: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a dataset whose prompt is described field by field."""
    fields = {"instruction": "field_instruction", "input": "field_input", "output": "field_output"}
    columns = {ours: kind[theirs] for ours, theirs in fields.items() if kind.get(theirs)}
    columns = {ours: name for ours, name in columns.items() if ours != name}
    return {"format": "alpaca"} | ({"columns": columns} if columns else {})


def _carry_template(migration: Migration) -> None:
    name, custom = migration.get("chat_template"), migration.get("chat_template_jinja")
    file = migration.find_beside(str(custom)) if custom else None
    if file and file.is_file():
        migration.carry("chat_template_jinja", "template", str(file.absolute()))
        migration.skip("chat_template", "the template's file is named")
    elif custom:
        migration.lose("chat_template_jinja", "write it to a file that ends in .jinja and name that in `template`")
    elif name == "chatml":
        migration.carry("chat_template", "template", "chatml")
    elif name and name != "tokenizer_default":
        migration.lose("chat_template", "the base's own template is used")
    elif name:
        migration.skip("chat_template", "the base's own template is used")
