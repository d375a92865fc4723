"""A checkpoint that TensorRT-LLM serves as it is: its PyTorch backend reads it without building an engine.

What it accepts: docs/source/models/supported-models.md and tensorrt_llm/models/quant_config_utils.py of
https://github.com/NVIDIA/TensorRT-LLM, as of November 2026. It is not installed here: the folder is checked
against these sources.
"""

import re
from pathlib import Path
from typing import Any

from tuneline.core.errors import StageFailed
from tuneline.core.files import write_atomic
from tuneline.stages.checkpoints.base_config import read_config, read_context_length
from tuneline.stages.checkpoints.safetensors_files import list_model_tensors

KIND = "TensorRT-LLM"
SCHEME = "FP8_DYNAMIC"
"""llmcompressor's name of FP8 with weights scaled by channel and activations by token. One scale for a whole tensor is
refused by TensorRT-LLM."""
SERVE = "serve.sh"
ARCHITECTURES = ("LlamaForCausalLM", "Llama4ForConditionalGeneration", "MistralForCausalLM")
"""Architectures that both its PyTorch backend and Tuneline support."""
_QUANTIZED = re.compile(r"(.+)\.weight")


def add_launch_script(folder: Path) -> None:
    """Write a script beside the weights that serves them.

    Raises:
        StageFailed: trtllm-serve would refuse the folder.
    """
    if reason := explain_refusal(folder):
        raise StageFailed(f"{folder}: trtllm-serve cannot load it: {reason}; take {KIND} out of convert.folders")
    context = read_context_length(folder)
    write_atomic(
        folder / SERVE,
        "#!/bin/sh\n# An OpenAI-compatible server; FP8 needs an Ada, Hopper or newer GPU. Options are passed on.\n"
        f'exec trtllm-serve "$(dirname "$0")" --host 127.0.0.1 --port 8000 --max_seq_len {context} "$@"\n',
    )
    (folder / SERVE).chmod(0o755)


def explain_refusal(folder: Path) -> str | None:
    """Return why TensorRT-LLM would refuse this checkpoint or misread its weights, or None if it would serve it."""
    config = read_config(folder)
    if config["architectures"][0] not in ARCHITECTURES:
        return f"its PyTorch backend has no {config['architectures'][0]}"
    if not (folder / "tokenizer.json").exists():
        return "there is no tokenizer.json"
    dtypes = {tensor.name: tensor.dtype for tensor in list_model_tensors(folder)}
    quantization = config.get("quantization_config")
    return _explain_quantization_refusal(quantization, dtypes) if quantization else None


def _explain_quantization_refusal(quantization: dict[str, Any], dtypes: dict[str, str]) -> str | None:
    if quantization["quant_method"] != "compressed-tensors":
        return f"quant_method {quantization['quant_method']}"
    if len(groups := list(quantization["config_groups"].values())) != 1:
        return f"{len(groups)} groups of layers with a quantization of their own"
    for part, strategy in (("weights", "channel"), ("input_activations", "token")):
        scheme = groups[0].get(part) or {}
        # TensorRT-LLM checks the bits and the strategy, not the type: it would read INT8 as FP8.
        bits, dtype, actual = scheme.get("num_bits"), scheme.get("type"), scheme.get("strategy")
        if (bits, dtype, actual) != (8, "float", strategy):
            return f"{part} of {bits} bits, {dtype}, by {actual}, not of 8, float, by {strategy}"
    names = [match[1] for name, dtype in dtypes.items() if dtype == "F8_E4M3" and (match := _QUANTIZED.fullmatch(name))]
    if not names:
        return "no weight is stored in FP8"
    unscaled = [name for name in names if f"{name}.weight_scale" not in dtypes]
    return f"{unscaled[0]} has no weight_scale" if unscaled else None
