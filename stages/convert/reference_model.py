"""The model as it was trained, base and adapter unmerged, in transformers: the reference for all files."""

from pathlib import Path
from typing import Any

from tuneline.stages.checkpoints.base_config import read_config

GPU_PARAMETERS = 15_000_000_000
"""A base with more parameters is loaded on a GPU only."""
MEMORY_SHARE = 0.8
"""The share of the free memory that the weights may fill."""
SMALL_PARAMETERS = 1_000_000_000
"""A base with fewer parameters computes in fp32."""


def explain_too_large(base: Path) -> str | None:
    """Return why base and adapter cannot be run on this machine, or None if they can."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return None
    parameters = _count_parameters(base)
    needed, free = parameters * (4 if parameters < SMALL_PARAMETERS else 2), psutil.virtual_memory().available
    if parameters > GPU_PARAMETERS:
        return f"{parameters / 1e9:.0f} B parameters with their adapter need a GPU"
    if needed > MEMORY_SHARE * free:
        return f"base and adapter need {needed / 1e9:.0f} GB of memory, and {free / 1e9:.0f} GB are free"
    return None


def load_tuned_model(base: Path, adapter: Path) -> Any:
    """Return base and adapter in evaluation mode, on a GPU if there is one."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    dtype: Any = torch.float32 if compute_dtype(base) == "float32" else "auto"
    tuned: Any
    if read_config(base)["model_type"].startswith("llama4"):
        from tuneline.stages.train.model.llama4_experts import load_tuned_llama4

        tuned = load_tuned_llama4(base, adapter, dtype)
    else:
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True)
        tuned = PeftModel.from_pretrained(model, str(adapter))
    return tuned.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def compute_dtype(base: Path) -> str:
    """Return the type that models of this base compute in: `float32`, or `auto` for the stored one."""
    return "float32" if _count_parameters(base) < SMALL_PARAMETERS else "auto"


def _count_parameters(base: Path) -> int:
    """Return the parameters of a base stored in 16 bit, by the size of its files."""
    return sum(file.stat().st_size for file in base.glob("*.safetensors")) // 2
