"""LLaMA-Factory's YAML into a recipe (version 0.9.5, and the files of its `v1` examples).

What its file leaves to a default of its own, and would be another default here, is written into the recipe.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRequest
from tuneline.core.user_files import read_json
from tuneline.stages.exchange.migration.settings import Migration

RENAMED = {
    "model_name_or_path": "base",
    "model": "base",
    "model_revision": "revision",
    "cutoff_len": "data.max_tokens",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "learning_rate": "train.learning_rate",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.max_gradient_norm",
    "loraplus_lr_ratio": "train.lora_plus",
    "early_stopping_steps": "train.patience",
    "seed": "train.seed",
    "save_steps": "train.save_steps",
}
DEFAULTS = {
    "num_train_epochs": 3.0,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "per_device_train_batch_size": 8,
    "cutoff_len": 2048,
    "warmup_steps": 0,
}
"""Of Transformers' TrainingArguments and LLaMA-Factory's own, where ours are others."""
LORA_DEFAULTS = {"lora_rank": 8, "lora_target": "all"}
STAGES = ("sft", "pt")
DATASET_INFO = "dataset_info.json"
_LOGS = "metrics are in the run's events.jsonl"
_MEMORY = "memory follows from the hardware"
UNNEEDED = {
    "do_train": "`tuneline train` trains",
    "stage": "a recipe describes supervised training",
    "finetuning_type": "train.method says it",
    "model_class": "the architecture follows from the base's config.json",
    "swanlab_": _LOGS,
    "ray_": "several GPUs train by DDP or FSDP2: compute.strategy",
    "ddp_": "several GPUs train by DDP or FSDP2: compute.strategy",
    "dist_config": "several GPUs train by DDP or FSDP2: compute.strategy",
    "use_kt": "several GPUs train by DDP or FSDP2: compute.strategy",
    "kernel_config": "faster kernels are chosen by the hardware",
    "init_config": _MEMORY,
    "flash_attn": "the fastest attention is chosen",
    "enable_liger_kernel": "a faster kernel, which does not change the result",
    "use_unsloth": "a faster kernel, which does not change the result",
    "use_v1_kernels": "a faster kernel, which does not change the result",
    "overwrite_output_dir": "a finished run is never overwritten",
    "overwrite_cache": "rows are prepared again when the data changed",
    "preprocessing_num_workers": "all cores are used",
    "dataloader_num_workers": "rows are in memory",
    "plot_loss": "the report has the curve",
    "save_only_model": "checkpoints are whole, and removed when training ends",
    "save_strategy": "a checkpoint every train.save_steps steps",
    "eval_strategy": "the validation loss every train.evaluate_steps steps",
    "per_device_eval_batch_size": "follows from the hardware",
    "trust_remote_code": "code of a repository is never run",
    "resume_from_checkpoint": "the same command resumes",
    "disable_gradient_checkpointing": _MEMORY,
    "pure_bf16": "the precision follows from the hardware",
    "mixed_precision": "the precision follows from the hardware",
    "double_quantization": "4-bit bases are always quantized twice",
    "dataset_dir": "data.sources has the paths",
    "media_dir": "a recipe has text alone",
    "group_by_length": "rows are always grouped by length",
    "tokenized_path": "rows are always prepared",
    "run_name": "a run takes its recipe's name",
    "sample_backend": "evaluation asks the served model",
    "max_new_tokens": "evaluation asks the served model",
    "neat_packing": "packed rows attend only to themselves",
}


def migrate(migration: Migration) -> None:
    """Fill the migration's recipe from its configuration.

    Raises:
        BadRequest: it is of a training that no recipe describes.
    """
    _refuse(migration)
    is_v1 = "train_dataset" in migration.values
    if not is_v1:
        _fill_in(migration, DEFAULTS)
    migration.carry_renamed(RENAMED)
    _carry_method(migration)
    _carry_batch(migration)
    _carry_rate(migration)
    _carry_data(migration, "train_dataset" if is_v1 else "dataset")
    if isinstance(steps := migration.get("eval_steps"), int):
        migration.carry("eval_steps", "train.evaluate_steps", steps)
    if migration.get("load_best_model_at_end"):
        migration.carry("load_best_model_at_end", "train.keep", "best")
    if migration.get("packing"):
        migration.carry("packing", "train.packing", True)
    migration.finish(UNNEEDED)


def _refuse(migration: Migration) -> None:
    where, stage = migration.file, migration.get("stage", "sft")
    if stage not in STAGES:
        line = migration.lines.get("stage")
        raise BadRequest(f"{where}:{line}: stage: {stage}: a recipe describes supervised training (sft, pt)")
    kind = migration.get("finetuning_type", "lora")
    if kind not in ("lora", "full"):
        line = migration.lines.get("finetuning_type")
        raise BadRequest(f"{where}:{line}: finetuning_type: {kind}: only lora and full can be described")
    if "train_dataset" not in migration.values and not migration.get("dataset"):
        raise BadRequest(f"{where}: dataset: none; this is not the configuration of a training")
    for key in ("image_max_pixels", "video_max_pixels"):
        if migration.get(key):
            raise BadRequest(f"{where}:{migration.lines.get(key)}: {key}: it trains on images; a recipe has text alone")


def _fill_in(migration: Migration, defaults: Mapping[str, Any]) -> None:
    for key, value in defaults.items():
        if key == "warmup_steps" and migration.get("warmup_ratio"):
            continue
        if migration.get(key) is None:
            migration.values[key] = value


def _carry_method(migration: Migration) -> None:
    peft = migration.get("peft_config")
    if isinstance(peft, dict):
        _carry_peft(migration, peft)
        return
    if migration.get("finetuning_type", "full" if "train_dataset" in migration.values else "lora") == "full":
        key = "finetuning_type" if migration.get("finetuning_type") else "model"
        migration.carry(key, "train.method", "full")
        return
    _fill_in(migration, LORA_DEFAULTS)
    bits = migration.get("quantization_bit")
    migration.carry(
        "quantization_bit" if bits == 4 else "finetuning_type", "train.method", "qlora" if bits == 4 else "lora"
    )
    if bits and bits != 4:
        migration.lose("quantization_bit", "the base is loaded in 16 bit, or in 4 with method qlora")
    if (method := migration.get("quantization_method")) and method not in ("bnb", "bitsandbytes"):
        migration.lose("quantization_method", "bitsandbytes quantizes")
    elif method:
        migration.skip("quantization_method", "bitsandbytes quantizes")
    rank = migration.read_number("lora_rank")
    migration.carry("lora_rank", "train.rank", rank)
    migration.carry("lora_alpha", "train.alpha", migration.get("lora_alpha", 2 * (rank or 0)))
    migration.carry_renamed({"lora_dropout": "train.dropout"})
    _carry_targets(migration, "lora_target", migration.get("lora_target"))
    if saved := migration.get("additional_target"):
        migration.carry_saved_modules("additional_target", _split(saved))
    if migration.get("adapter_name_or_path"):
        migration.lose(
            "adapter_name_or_path", "make a run of it with `tuneline adopt`, and name that in train.init_from"
        )


def _carry_peft(migration: Migration, peft: dict[str, Any]) -> None:
    """Carry the `peft_config` of a v1 file."""
    if peft.get("name") != "lora":
        raise BadRequest(f"{migration.file}: peft_config.name: {peft.get('name')}: only lora can be described")
    migration.carry("peft_config", "train.method", "qlora" if migration.get("quant_config") else "lora")
    if isinstance(quant := migration.get("quant_config"), dict):
        migration.skip("quant_config", f"train.method: qlora ({quant.get('name')})")
    for theirs, ours in {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"}.items():
        if peft.get(theirs) is not None:
            migration.carry("peft_config", f"train.{ours}", peft[theirs])
    if peft.get("target_modules"):
        _carry_targets(migration, "peft_config", peft["target_modules"])


def _carry_targets(migration: Migration, key: str, names: Any) -> None:
    modules = [str(name) for name in names] if isinstance(names, list) else _split(names)
    if modules in (["all"], ["all-linear"]):
        migration.carry(key, "train.targets", ["attention", "mlp"])
    else:
        migration.carry_targets(key, modules)


def _split(names: Any) -> list[str]:
    return [name.strip() for name in str(names).split(",") if name.strip()]


def _carry_batch(migration: Migration) -> None:
    key = "micro_batch_size" if migration.get("micro_batch_size") else "per_device_train_batch_size"
    rows, steps = migration.get(key), migration.get("gradient_accumulation_steps", 1)
    if isinstance(rows, int) and isinstance(steps, int):
        migration.carry(key, "train.batch_rows", rows * steps)
        if "gradient_accumulation_steps" in migration.values:
            migration.skip("gradient_accumulation_steps", "train.batch_rows has it: rows per step, over all GPUs")


def _carry_rate(migration: Migration) -> None:
    if schedule := migration.get("lr_scheduler_type"):
        migration.carry_schedule("lr_scheduler_type", str(schedule))
    floor = migration.get("lr_scheduler_kwargs")
    if isinstance(floor, dict) and floor.get("min_lr"):
        migration.carry("lr_scheduler_kwargs", "train.final_learning_rate", floor["min_lr"])
    migration.carry_warmup()
    if optimizer := migration.get("optim"):
        migration.carry_optimizer("optim", str(optimizer))
    if template := migration.get("template"):
        migration.lose("template", f"the base's own template is used, not LLaMA-Factory's {template}")


def _carry_data(migration: Migration, key: str) -> None:
    info = _read_info(migration)
    names = migration.get(key)
    sources = [_to_source(migration, key, name, info) for name in _names_of(names)]
    if migration.get("stage") == "pt":
        sources = [source | {"format": "text", "learn": "continuation"} for source in sources]
    migration.carry(key, "data.sources", sources)
    if tests := _names_of(migration.get("eval_dataset")):
        migration.carry("eval_dataset", "data.validation", _to_source(migration, "eval_dataset", tests[0], info))
        if tests[1:]:
            migration.lose("eval_dataset", f"{len(tests)} of them: the first is used")
    share = migration.get("val_size", 0)
    if isinstance(share, float) and 0 < share < 1:
        migration.carry("val_size", "data.validation_share", share)
    elif isinstance(share, int) and share > 1:
        migration.carry("val_size", "data.validation_rows", share)
    if migration.get("max_samples"):
        migration.lose("max_samples", "all rows are read; data.sources[].weight takes a share of a source")


def _names_of(names: Any) -> list[str]:
    return [str(name) for name in names] if isinstance(names, list) else _split(names or "")


def _read_info(migration: Migration) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the content of `dataset_info.json`, if it is there."""
    name = str(migration.get("dataset_dir", "data"))
    folder, file = migration.file.parent / name, migration.find_beside(f"{name}/{DATASET_INFO}")
    info = read_json(file, BadRequest) if file and file.is_file() else {}
    return folder, info if isinstance(info, dict) else {}


def _to_source(migration: Migration, key: str, name: str, info: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    folder, entries = info
    entry = entries.get(name)
    if not isinstance(entry, dict):
        return migration.carry_dataset(key, name, {})
    if isinstance(file := entry.get("file_name"), str):
        return migration.carry_dataset(key, str((folder / file).absolute()), {}) | _columns(entry)
    if isinstance(hub := entry.get("hf_hub_url"), str):
        return migration.carry_dataset(key, hub, _columns(entry))
    migration.lose(key, f"{name}: neither a file nor a dataset of the hub")
    return migration.carry_dataset(key, name, {})


def _columns(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the columns that `dataset_info.json` renames, for Alpaca's form; others are detected by their keys."""
    columns = entry.get("columns")
    if entry.get("formatting", "alpaca") != "alpaca" or not isinstance(columns, dict):
        return {}
    fields = {"instruction": "prompt", "input": "query", "output": "response"}
    renamed = {ours: columns[theirs] for ours, theirs in fields.items() if columns.get(theirs) not in (None, ours)}
    return {"columns": renamed} if renamed else {}
