"""Image for training on GPUs: torch with CUDA, the Hugging Face stack, bitsandbytes, FlashAttention's kernels."""

import modal

from tuneline.images.pins import PYTHON, pinned
from tuneline.images.source import ENVIRONMENT, with_source

KERNELS = ("kernels-community/flash-attn2", "kernels-community/flash-attn3")
"""Compiled for the pinned torch and CUDA; loaded through transformers' `attn_implementation`."""
_INSTALL_KERNELS = "from kernels import install_kernel; [install_kernel(name, revision='main') for name in {names!r}]"

image = with_source(
    modal.Image.debian_slim(python_version=PYTHON)
    .pip_install(*pinned("torch"))
    .pip_install(*pinned("transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "safetensors"))
    .pip_install(*pinned("kernels", "huggingface-hub", "numpy", "sentencepiece", "orjson"))
    .pip_install(*pinned("pydantic", "pyyaml", "jinja2", "rich", "typer", "openai", "wandb"))
    .run_commands(f'python -c "{_INSTALL_KERNELS.format(names=KERNELS)}"')
    .env(ENVIRONMENT | {"USE_HUB_KERNELS": "1"})
)
