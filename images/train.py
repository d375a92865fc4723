"""Images for training: torch, the Hugging Face stack, bitsandbytes; on GPUs with CUDA and FlashAttention's kernel."""

from tuneline.core.attention_kernels import VARIABLE
from tuneline.images.cpu import TORCH_CPU
from tuneline.images.packages import KERNELS, slim_image, with_locked
from tuneline.images.source import ENVIRONMENT, HOME, with_files, with_source

KERNELS_FILE = f"{HOME}/kernels.json"
_NAMES = " ".join(f"{name}@{commit}" if commit else name for name, commit in KERNELS.items())
INSTALL_COMMAND = f"cd {HOME} && PYTHONPATH={HOME} python -m tuneline.core.attention_kernels {KERNELS_FILE} {_NAMES}"
"""Installs kernels compiled for the pinned torch and CUDA. From then on the image is offline: training asks no hub."""

_packages = with_locked(slim_image(), "torch", "cuda", "train")
on_cpu = with_source(with_locked(with_locked(slim_image(), "torch", index_url=TORCH_CPU), "train").env(ENVIRONMENT))
image = with_source(
    with_files(_packages, "core/__init__.py", "core/attention_kernels.py")
    .run_commands(INSTALL_COMMAND)
    .env(ENVIRONMENT | {"HF_HUB_OFFLINE": "1", VARIABLE: KERNELS_FILE})
)
