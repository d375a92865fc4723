"""Adapter files in PEFT's format, written from a model that may be sharded."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from tuneline.stages.checkpoints.lora_adapter import CONFIG, WEIGHTS
from tuneline.stages.train.distributed.process_group import get_world_size, is_main_process
from tuneline.stages.train.model.adapter_weights import PEFT_PREFIX

UNORDERED = ("target_modules", "modules_to_save")
"""Settings that PEFT holds as a set and writes in any order."""


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter to `folder`, its shards gathered. Every process must call this; the main process writes."""
    weights = None
    if get_world_size() > 1:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        weights = {name: _gather(parameter) for name, parameter in trained.items()}
    if is_main_process():
        # With save_embedding_layers on its default, PEFT asks the hub about the embeddings.
        model.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)
    if get_world_size() > 1:
        dist.barrier()


def save_publishable_adapter(model: Any, folder: Path, base: str, revision: str | None) -> None:
    """Write the adapter to `folder` as it is published. Every process must call this.

    It is complete, its weights have the names of the base checkpoint, and it contains no path of this machine: `base`
    and `revision` are recorded as the model it was trained on. An existing folder is replaced.
    """
    for config in model.peft_config.values():
        config.base_model_name_or_path = base
        config.revision = revision
    temporary = folder.with_name(f".{folder.name}")
    if is_main_process():
        shutil.rmtree(temporary, ignore_errors=True)
    save_adapter(model, temporary)
    if not is_main_process():
        return
    if prefix := getattr(model, "checkpoint_prefix", ""):
        _add_checkpoint_prefix(temporary / WEIGHTS, prefix)
    _sort_config(temporary / CONFIG)
    (temporary / "README.md").unlink(missing_ok=True)  # PEFT's empty form; evaluate writes the model card
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def _gather(parameter: torch.nn.Parameter) -> torch.Tensor:
    data = parameter.detach()
    return data.full_tensor().cpu() if isinstance(data, DTensor) else data.cpu()


def _add_checkpoint_prefix(file: Path, prefix: str) -> None:
    weights = {name.replace(PEFT_PREFIX, PEFT_PREFIX + prefix, 1): w for name, w in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})


def _sort_config(file: Path) -> None:
    """Rewrite adapter_config.json with sorted keys and lists, so that equal settings give equal bytes."""
    config = json.loads(file.read_text(encoding="utf-8"))
    ordered = {
        key: sorted(value) if key in UNORDERED and isinstance(value, list) else value for key, value in config.items()
    }
    file.write_text(json.dumps(ordered, indent=1, sort_keys=True), encoding="utf-8")
