"""A folder that TensorRT-LLM serves as it is: no engine is built any more, its PyTorch backend reads checkpoints.

What it takes: docs/source/models/supported-models.md and tensorrt_llm/models/quant_config_utils.py of
https://github.com/NVIDIA/TensorRT-LLM, as of November 2026. It is not installed here: the folder is checked by them.
"""

import json
import re
from pathlib import Path
from typing import Any

from tuneline.core.artifacts import write_atomic
from tuneline.core.errors import StageFailed
from tuneline.stages.checkpoints.safetensors_files import shards, stored

KIND = "TensorRT-LLM"
SCHEME = "FP8_DYNAMIC"
"""llmcompressor's name: FP8, weights scaled by channel and activations by token. It refuses one scale a tensor."""
SERVE = "serve.sh"
ARCHITECTURES = ("LlamaForCausalLM", "Llama4ForConditionalGeneration", "MistralForCausalLM")
"""Of those its PyTorch backend has, the ones made here."""
_QUANTIZED = re.compile(r"(.+)\.weight")


def finish(folder: Path) -> None:
    """Write its launch command beside the weights.

    Raises:
        StageFailed: trtllm-serve would refuse the folder.
    """
    if why := misfit(folder):
        raise StageFailed(f"{folder}: trtllm-serve does not take it: {why}; take {KIND} out of convert.folders")
    context = json.loads((folder / "config.json").read_text())
    context = context.get("text_config", context)["max_position_embeddings"]
    write_atomic(
        folder / SERVE,
        "#!/bin/sh\n# An OpenAI-compatible server; FP8 needs an Ada, Hopper or newer GPU. Options are passed on.\n"
        f'exec trtllm-serve "$(dirname "$0")" --host 127.0.0.1 --port 8000 --max_seq_len {context} "$@"\n',
    )
    (folder / SERVE).chmod(0o755)


def misfit(folder: Path) -> str | None:
    """Why TensorRT-LLM would refuse this checkpoint, or read other weights than were written; None if it would not."""
    config = json.loads((folder / "config.json").read_text())
    if config["architectures"][0] not in ARCHITECTURES:
        return f"its PyTorch backend has no {config['architectures'][0]}"
    if not (folder / "tokenizer.json").exists():
        return "there is no tokenizer.json"
    tensors = {tensor.name: tensor for file in shards(folder) for tensor in stored(file)}
    quantization = config.get("quantization_config")
    return (
        _quantization_misfit(quantization, {name: one.dtype for name, one in tensors.items()}) if quantization else None
    )


def _quantization_misfit(quantization: dict[str, Any], dtypes: dict[str, str]) -> str | None:
    if quantization["quant_method"] != "compressed-tensors":
        return f"quant_method {quantization['quant_method']}"
    if len(groups := list(quantization["config_groups"].values())) != 1:
        return f"{len(groups)} groups of layers with a quantization of their own"
    for part, strategy in (("weights", "channel"), ("input_activations", "token")):
        given = groups[0].get(part) or {}
        # It asks for 8 bits and the strategy, not for the type: INT8 would be read as FP8.
        found = (given.get("num_bits"), given.get("type"), given.get("strategy"))
        if found != (8, "float", strategy):
            return f"{part} of {found[0]} bits, {found[1]}, by {found[2]}, not of 8, float, by {strategy}"
    names = [match[1] for name, dtype in dtypes.items() if dtype == "F8_E4M3" and (match := _QUANTIZED.fullmatch(name))]
    if not names:
        return "no weight is stored in FP8"
    unscaled = [name for name in names if f"{name}.weight_scale" not in dtypes]
    return f"{unscaled[0]} has no weight_scale" if unscaled else None
