"""Weights of a saved adapter, loaded into a model that has its LoRA layers already."""

from pathlib import Path
from typing import Any

import torch.distributed as dist
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file

from tuneline.core.errors import StageFailed
from tuneline.stages.checkpoints.lora_adapter import WEIGHTS
from tuneline.stages.train.distributed.process_group import get_world_size

SAVED_COPY = ".modules_to_save.default"
"""In the name of a trained copy of a module, which an adapter's file does not have."""
PEFT_PREFIX = "base_model.model."
"""PEFT puts this before the base's own weight names."""


def load_adapter_weights(model: PeftModel, adapter: Path, checkpoint_prefix: str) -> None:
    """Load the adapter in folder `adapter` into `model`.

    `checkpoint_prefix` is what the base checkpoint puts before the language model's weight names. A saved adapter
    has it; the loaded model does not.

    Raises:
        StageFailed: the adapter has weights that the model lacks, or lacks LoRA weights that the model has.
    """
    stored = PEFT_PREFIX + checkpoint_prefix
    weights = {PEFT_PREFIX + name.removeprefix(stored): w for name, w in load_file(adapter / WEIGHTS).items()}
    shards = {name.replace(SAVED_COPY, ""): p for name, p in model.named_parameters() if hasattr(p, "full_shape")}
    for name in weights.keys() & shards.keys():
        weights[name] = weights[name].chunk(get_world_size())[dist.get_rank()]
    keys: Any = set_peft_model_state_dict(model, weights)
    missing = [name for name in keys.missing_keys if "lora_" in name]
    if keys.unexpected_keys or missing:
        odd = (list(keys.unexpected_keys) + missing)[0]
        raise StageFailed(f"{adapter / WEIGHTS}: does not fit the base: {odd}; was it trained on another base?")


def cast_adapter_to_fp32(model: PeftModel) -> None:
    """Cast all trained weights to 32 bit.

    TRL casts a QLoRA adapter to bf16, while PEFT loads a checkpoint's in 32 bit: a resumed run would differ.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
