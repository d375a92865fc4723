"""A LoRA adapter merged into its 16-bit base, one tensor at a time."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import BadRecipe, StageFailed

if TYPE_CHECKING:
    import torch

_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


def merge(base: Path, adapter: Path, out: Path, progress: Callable[[int, int], None]) -> None:
    """Write base + adapter to `out`, in the base's types and shards: W + (alpha / rank) B A, summed in fp32, rounded once.

    `progress(done, total)` is told of every file of weights.

    Raises:
        BadRecipe: an adapter kind this cannot merge exactly. StageFailed: adapter and base do not fit.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    config = json.loads((adapter / "adapter_config.json").read_text())
    _refuse_what_is_not_plain_lora(config)
    scale, pairs = config["lora_alpha"] / config["r"], _pairs(adapter)
    merged: set[str] = set()
    out.mkdir(parents=True, exist_ok=True)
    shards = sorted(base.glob("*.safetensors"))
    for done, shard in enumerate(shards, 1):
        with safe_open(shard, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata()
        for name in tensors.keys() & pairs.keys():
            a, b = pairs[name]["A"], pairs[name]["B"]
            tensors[name] = (tensors[name].float() + (b @ a) * scale).to(tensors[name].dtype)
            merged.add(name)
        save_file(tensors, out / shard.name, metadata)
        progress(done, len(shards))
    if missing := sorted(pairs.keys() - merged):
        raise StageFailed(
            f"{adapter}: it adapts {missing[0]}, which {base} does not have; was it trained on another base?"
        )
    for file in base.iterdir():
        if file.suffix != ".safetensors" and file.is_file() and file.name not in ("manifest.json", "draft.json"):
            shutil.copy2(file, out / file.name)


def _refuse_what_is_not_plain_lora(config: dict[str, Any]) -> None:
    for key, plain in {"peft_type": "LORA", "bias": "none"}.items():
        if config.get(key, plain) != plain:
            raise BadRecipe(f"adapter_config.json: {key}: {config[key]!r} cannot be merged exactly; only {plain!r} can")
    for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out"):
        if config.get(key):
            raise BadRecipe(f"adapter_config.json: {key}: {config[key]!r} cannot be merged exactly yet")


def _pairs(adapter: Path) -> "dict[str, dict[str, torch.Tensor]]":
    from safetensors import safe_open

    pairs: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        for key in file.keys():
            name = _KEY.fullmatch(key)
            if not name:
                raise StageFailed(f"{adapter}/adapter_model.safetensors: {key}: not a LoRA weight")
            pairs.setdefault(f"{name[1]}.weight", {})[name[2]] = file.get_tensor(key).float()
    return pairs
