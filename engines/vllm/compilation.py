"""What vLLM 0.32 would compile while it starts, by nvcc, which neither its wheels nor our images have: turned off.

Triton's kernels stay: they need a C compiler and Python's headers (triton/runtime/build.py), which Modal's base image
has. CUDA graphs and torch.compile are off by `--enforce-eager`.
"""

import shutil
from pathlib import Path

from tuneline.core.environment import read_variable
from tuneline.core.errors import StageFailed
from tuneline.core.nvidia_smi import run_nvidia_smi

WITHOUT_NVCC = {
    # Taken wherever FlashInfer's package is (vllm/v1/sample/ops/topk_topp_sampler.py; vllm issue 49497).
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    # Likewise between GPUs (vllm/distributed/device_communicators/cuda_communicator.py); NCCL's remains.
    "VLLM_ALLREDUCE_USE_FLASHINFER": "0",
    # For block-quantized FP8 (vllm/utils/deep_gemm.py), which nothing we make is.
    "VLLM_USE_DEEP_GEMM": "0",
}
"""Environment variables of vLLM; whoever has a CUDA toolkit sets them to 1."""
FLASHINFER_FIRST = "10."
"""Compute capability for which vLLM takes FlashInfer's attention first (vllm/platforms/cuda.py): B200 and its like.
Elsewhere it takes FlashAttention, which is compiled in its wheel."""


def choose_attention_arguments() -> list[str]:
    """Return the option that keeps vLLM off FlashInfer's attention, where it would take it and cannot compile it."""
    if _has_nvcc():
        return []
    try:
        capabilities = run_nvidia_smi("--query-gpu=compute_cap", "--format=csv,noheader") or ""
    except StageFailed:
        return []  # vLLM's own start says what is wrong with the driver
    is_first = any(line.strip().startswith(FLASHINFER_FIRST) for line in capabilities.splitlines())
    return ["--attention-backend", "FLASH_ATTN"] if is_first else []


def _has_nvcc() -> bool:
    """Return whether FlashInfer would find nvcc (`_flashinfer_nvcc_path` of vllm/utils/flashinfer.py)."""
    home = read_variable("CUDA_HOME") or read_variable("CUDA_PATH") or "/usr/local/cuda"
    return bool(shutil.which("nvcc")) or (Path(home) / "bin/nvcc").exists()
