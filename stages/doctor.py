"""What this machine lacks for which part of the work, and the command that fixes it."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tuneline.core import paths
from tuneline.core.disk_space import find_free_bytes
from tuneline.core.environment import read_stated_variable
from tuneline.core.errors import NotFound, StageFailed
from tuneline.core.modal_command import modal_command
from tuneline.core.nvidia_smi import SHOWN, run_nvidia_smi
from tuneline.engines.llama_cpp.build import find_llama_cpp

DRIVER, CUDA = (525, 0), (12, 1)
"""Oldest versions that torch's CUDA builds and bitsandbytes' kernels support."""
MEMORY_GIB, DISK_GB = 4, 20
"""Enough for the tiny base and a build; larger models need more, and `tuneline plan` says how much."""
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    subject: str
    state: str
    """`ok`, `missing` (something cannot work) or `absent` (something optional is left out)."""
    detail: str
    fix: str = ""


def examine_machine() -> list[Finding]:
    """Return the result of every check, in the order in which a user needs them; nothing is changed."""
    return [*_gpu(), _memory(), _disk(), *_build(), *_tokens()]


def _gpu() -> list[Finding]:
    fix = "`sudo modprobe nvidia`, or reboot after an update of the driver"
    try:
        output = run_nvidia_smi()
    except StageFailed as error:
        return [Finding("GPU", "missing", str(error), fix)]
    if output is None:
        return [
            Finding(
                "GPU",
                "absent",
                "no nvidia-smi",
                "on a machine with an NVIDIA card: `sudo apt install nvidia-driver-550`",
            )
        ]
    driver = _find_version(r"Driver Version:\s*(\d+)\.(\d+)", output)
    cuda = _find_version(r"CUDA Version:\s*(\d+)\.(\d+)", output)
    if driver is None:
        return [Finding("GPU", "missing", f"nvidia-smi says: {output[:SHOWN]}", fix)]
    update = "`sudo apt install nvidia-driver-550`, then reboot"
    findings = [_require_version("driver", driver, DRIVER, update)]
    return findings + ([_require_version("CUDA", cuda, CUDA, update)] if cuda else [])


def _find_version(pattern: str, text: str) -> tuple[int, int] | None:
    match = re.search(pattern, text)
    return (int(match[1]), int(match[2])) if match else None


def _require_version(subject: str, installed: tuple[int, int], oldest: tuple[int, int], fix: str) -> Finding:
    detail = f"{installed[0]}.{installed[1]}, needed {oldest[0]}.{oldest[1]}"
    return Finding(subject, "ok", detail) if installed >= oldest else Finding(subject, "missing", detail, fix)


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / GIB
    detail = f"{free:.1f} GiB free, {MEMORY_GIB} for the tiny base"
    fix = f"close other programs, or run the stage on Modal: `{modal_command('train', 'RECIPE', 'RUN')}`"
    return Finding("memory", "ok", detail) if free >= MEMORY_GIB else Finding("memory", "missing", detail, fix)


def _disk() -> Finding:
    folder = paths.models()
    while not folder.exists():
        folder = folder.parent
    free_bytes = find_free_bytes(folder)
    if free_bytes is None:
        return Finding("disk", "ok", f"free space at {paths.models()} is unknown until it is full")
    free = free_bytes / 1e9
    detail = f"{free:.0f} GB free at {paths.models()}, {DISK_GB} for a build and small models"
    fix = "`tuneline models remove NAME`, or set TUNELINE_MODELS, TUNELINE_RUNS and TUNELINE_CACHE to another disk"
    return Finding("disk", "ok", detail) if free >= DISK_GB else Finding("disk", "missing", detail, fix)


def _build() -> list[Finding]:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    install = "`sudo apt install g++`; on a Mac `xcode-select --install`"
    findings = [
        Finding("compiler", "ok", compiler)
        if compiler
        else Finding("compiler", "missing", "builds llama.cpp (once)", install)
    ]
    try:
        find_llama_cpp()
    except NotFound:
        findings.append(Finding("llama.cpp", "absent", f"not built in {paths.cache()}", "`make llama`"))
    return findings


def _tokens() -> list[Finding]:
    hub = "for gated models; `export HF_TOKEN=…` (https://huggingface.co/settings/tokens)"
    modal = "to run on Modal; `modal token new`"
    tokens = {"HF_TOKEN": hub, "WANDB_API_KEY": "for W&B; `export WANDB_API_KEY=…` (https://wandb.ai/authorize)"}
    findings = [
        Finding(name, "ok", "set") if read_stated_variable(name) else Finding(name, "absent", "not set", fix)
        for name, fix in tokens.items()
    ]
    signed_in = read_stated_variable("MODAL_TOKEN_ID") or Path("~/.modal.toml").expanduser().exists()
    return [
        *findings,
        Finding("Modal", "ok", "signed in") if signed_in else Finding("Modal", "absent", "not signed in", modal),
    ]
