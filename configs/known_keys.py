"""Keys of other trainers' configurations, each with the setting of ours that does the same."""

from types import UnionType
from typing import get_args

from pydantic import BaseModel

from tuneline.configs.recipe import Recipe

OTHER_TRAINERS = {
    # PEFT
    "r": "train.rank",
    "lora_r": "train.rank",
    "lora_rank": "train.rank",
    "lora_alpha": "train.alpha",
    "lora_dropout": "train.dropout",
    "target_modules": "train.targets",
    "lora_target_modules": "train.targets",
    "lora_target_linear": "train.targets",
    "lora_modules_to_save": "train.modules_to_save",
    "loraplus_lr_ratio": "train.lora_plus",
    # Transformers and TRL
    "model_name_or_path": "base",
    "model_name": "base",
    "model_revision": "revision",
    "dataset_name": "data.sources",
    "train_file": "data.sources",
    "dataset": "data.sources",
    "max_length": "data.max_tokens",
    "max_seq_length": "data.max_tokens",
    "num_train_epochs": "train.epochs",
    "per_device_train_batch_size": "train.batch_rows",
    "train_batch_size": "train.batch_rows",
    "gradient_accumulation_steps": "train.batch_rows",
    "lr": "train.learning_rate",
    "lr_scheduler": "train.schedule",
    "lr_scheduler_type": "train.schedule",
    "warmup_ratio": "train.warmup_steps",
    "max_grad_norm": "train.max_gradient_norm",
    "gradient_clipping": "train.max_gradient_norm",
    "eval_steps": "train.evaluate_steps",
    "eval_strategy": "train.evaluate_steps",
    "save_strategy": "train.save_steps",
    "early_stopping_patience": "train.patience",
    "load_best_model_at_end": "train.keep",
    "load_in_4bit": "train.method",
    # Axolotl
    "base_model": "base",
    "datasets": "data.sources",
    "test_datasets": "data.validation",
    "val_set_size": "data.validation_share",
    "sequence_len": "data.max_tokens",
    "micro_batch_size": "compute.micro_batch_rows",
    "num_epochs": "train.epochs",
    "adapter": "train.method",
    "sample_packing": "train.packing",
    # OpenAI
    "model": "base",
    "training_file": "data.sources",
    "validation_file": "data.validation",
    "n_epochs": "train.epochs",
    "batch_size": "train.batch_rows",
    "learning_rate_multiplier": "train.learning_rate",
    "suffix": "name",
    "hyperparameters": "train",
}
NOT_NEEDED = {
    "output_dir": "a run is written to .runs/NAME; set NAME by --run or `name`",
    "logging_steps": "every step is logged",
    "report_to": "W&B is used if WANDB_API_KEY is set",
    "wandb_project": "runs are logged to the W&B project 'tuneline'",
    "gradient_checkpointing": "it is always on where a GPU trains",
    "activation_checkpointing": "it is always on where a GPU trains",
    "bf16": "the precision follows from the hardware",
    "fp16": "the precision follows from the hardware",
    "tf32": "the precision follows from the hardware",
    "assistant_only_loss": "only the assistant's tokens are in the loss, always",
    "train_on_inputs": "only the assistant's tokens are in the loss, always",
    "chat_template": "the base's own template is used",
    "deepspeed": "several GPUs train by DDP or FSDP2: compute.strategy",
    "fsdp": "several GPUs train by DDP or FSDP2: compute.strategy",
}
"""Keys of other trainers that no setting corresponds to, and why."""


def explain_foreign_key(key: str) -> str | None:
    """Return what to write instead of a key that another trainer has, or that is in another section; None if unknown.

    Its case is ignored.
    """
    name = key.lower()
    if setting := OTHER_TRAINERS.get(name):
        return f"here it is {setting!r}"
    if reason := NOT_NEEDED.get(name):
        return f"it is not needed: {reason}"
    places = [setting for setting in list_settings() if setting.rpartition(".")[2] == key]
    return f"it belongs in {places[0]!r}" if len(places) == 1 else None


def list_settings(section: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """Return every setting of a recipe that is not an item of a list, with its section: `train.rank`."""
    settings = []
    for name, field in section.model_fields.items():
        settings.append(f"{prefix}{name}")
        kinds = get_args(field.annotation) if isinstance(field.annotation, UnionType) else (field.annotation,)
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                settings += list_settings(kind, f"{prefix}{name}.")
    return settings
