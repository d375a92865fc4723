"""Image for training on GPUs: torch with CUDA, the Hugging Face stack, bitsandbytes, FlashAttention's kernels."""

import modal

from tuneline.core.attention_kernels import VARIABLE
from tuneline.images.pins import KERNELS, PYTHON, pinned
from tuneline.images.source import ENVIRONMENT, HOME, with_files, with_source

KERNELS_FILE = f"{HOME}/kernels.json"
_NAMES = " ".join(f"{name}@{commit}" if commit else name for name, commit in KERNELS.items())
INSTALL_COMMAND = f"cd {HOME} && PYTHONPATH={HOME} python -m tuneline.core.attention_kernels {KERNELS_FILE} {_NAMES}"
"""Installs kernels compiled for the pinned torch and CUDA; loaded through transformers' `attn_implementation`."""

_packages = (
    modal.Image.debian_slim(python_version=PYTHON)
    .pip_install(*pinned("torch"))
    .pip_install(*pinned("transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "safetensors"))
    .pip_install(*pinned("kernels", "huggingface-hub", "numpy", "sentencepiece", "orjson"))
    .pip_install(*pinned("pydantic", "pyyaml", "jinja2", "rich", "typer", "openai", "wandb"))
)
image = with_source(
    with_files(_packages, "core/__init__.py", "core/attention_kernels.py")
    .run_commands(INSTALL_COMMAND)
    .env(ENVIRONMENT | {"USE_HUB_KERNELS": "1", VARIABLE: KERNELS_FILE})
)
