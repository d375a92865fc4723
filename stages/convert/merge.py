"""A LoRA adapter merged into its 16-bit base, one tensor at a time."""

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import BadRecipe, StageFailed

if TYPE_CHECKING:
    import torch

_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")

PLAIN = {"peft_type": "LORA", "bias": "none"}
BEYOND_PLAIN = (
    *("use_dora", "use_rslora", "use_qalora", "use_bdlora", "rank_pattern", "alpha_pattern", "modules_to_save"),
    *("fan_in_fan_out", "lora_bias", "layer_replication", "trainable_token_indices", "target_parameters"),
    *("alora_invocation_tokens", "megatron_config", "arrow_config", "velora_config", "monteclora_config"),
)
"""Settings of PEFT's LoraConfig that make of an adapter something else than W + (alpha / rank) B A."""
KEEPS_BASE = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base as it was; PiSSA, OLoRA, CorDA and LoftQ change it."""

Pairs = dict[str, dict[str, "torch.Tensor"]]


def merge(base: Path, adapter: Path, out: Path, progress: Callable[[int, int], None]) -> None:
    """Write base + adapter to `out` in the base's types and shards: W + (alpha / rank) B A, in fp32, rounded once.

    A shard that an earlier call finished is kept. `progress(done, total)` is told of every one.

    Raises:
        BadRecipe: an adapter kind this cannot merge exactly. StageFailed: adapter and base do not fit.
    """
    config = json.loads((adapter / "adapter_config.json").read_text())
    _refuse_what_is_not_plain_lora(config)
    scale, pairs = config["lora_alpha"] / config["r"], _pairs(adapter)
    shards = sorted(base.glob("*.safetensors"))
    _refuse_another_base(pairs, shards, adapter)
    out.mkdir(parents=True, exist_ok=True)
    for file in base.iterdir():
        if file.suffix != ".safetensors" and file.is_file() and file.name not in ("manifest.json", "draft.json"):
            shutil.copy2(file, out / file.name)
    for done, shard in enumerate(shards, 1):
        if not (out / shard.name).exists():
            part = out / f"{shard.name}.part"
            _merge_shard(shard, part, pairs, scale)
            part.replace(out / shard.name)
        progress(done, len(shards))


def _merge_shard(shard: Path, out: Path, pairs: Pairs, scale: float) -> None:
    """The header is copied as it is: names, types, shapes and places stay the same."""
    start, tensors = _header(shard)
    with shard.open("rb") as source, out.open("wb") as target:
        target.write(source.read(start))
        for name, about in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = about["data_offsets"]
            data = bytearray(end - begin)
            source.readinto(data)
            if name in pairs:
                _add(data, about, pairs[name]["B"] @ pairs[name]["A"] * scale, f"{shard}: {name}")
            target.write(data)


def _add(data: bytearray, about: dict[str, Any], delta: "torch.Tensor", where: str) -> None:
    """Add `delta` (fp32) in place to the tensor whose bytes are `data`."""
    import torch

    kinds = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    if about["dtype"] not in kinds:
        raise StageFailed(f"{where}: {about['dtype']}: only {', '.join(kinds)} weights can be merged into")
    if list(delta.shape) != about["shape"]:
        raise StageFailed(
            f"{where}: {about['shape']}, but the adapter's is {list(delta.shape)}; was it trained on another base?"
        )
    weight = torch.frombuffer(data, dtype=kinds[about["dtype"]]).view(about["shape"])
    weight.copy_(weight.float() + delta)


def _refuse_what_is_not_plain_lora(config: dict[str, Any]) -> None:
    for key, plain in PLAIN.items():
        if config.get(key, plain) != plain:
            raise BadRecipe(f"adapter_config.json: {key}: {config[key]!r} cannot be merged exactly; only {plain!r} can")
    beyond = [key for key in BEYOND_PLAIN if config.get(key)]
    if config.get("init_lora_weights") not in KEEPS_BASE:
        beyond.append("init_lora_weights")
    if beyond:
        raise BadRecipe(f"adapter_config.json: {beyond[0]}: {config[beyond[0]]!r} cannot be merged exactly yet")


def _refuse_another_base(pairs: Pairs, shards: list[Path], adapter: Path) -> None:
    there = {name for shard in shards for name in _header(shard)[1]}
    if missing := sorted(pairs.keys() - there):
        raise StageFailed(
            f"{adapter}: it adapts {missing[0]}, which the base does not have; was it trained on another base?"
        )


def _header(shard: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Where the data starts, and dtype, shape and data_offsets by name: https://github.com/huggingface/safetensors#format"""
    with shard.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        tensors = json.loads(file.read(length))
    tensors.pop("__metadata__", None)
    return 8 + length, tensors


def _pairs(adapter: Path) -> Pairs:
    from safetensors import safe_open

    pairs: Pairs = {}
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118 (no mapping)  # noqa: SIM118 (it is no dict)
            name = _KEY.fullmatch(key)
            if not name:
                raise StageFailed(f"{adapter}/adapter_model.safetensors: {key}: not a LoRA weight")
            pairs.setdefault(f"{name[1]}.weight", {})[name[2]] = file.get_tensor(key).float()
    if half := sorted(name for name, pair in pairs.items() if len(pair) < 2):
        raise StageFailed(f"{adapter}/adapter_model.safetensors: {half[0]} has only one of lora_A and lora_B")
    return pairs
