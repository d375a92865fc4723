"""What this machine lacks for which part of the work, and the command that mends it."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tuneline.core import paths

DRIVER, CUDA = (525, 0), (12, 1)
"""Oldest that torch's CUDA builds and bitsandbytes' kernels take."""
MEMORY_GIB, DISK_GB = 4, 20
"""Enough for the tiny base and a build; larger models need more, and `tuneline plan` says how much."""
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    state: str
    """`ok`, `missing`, which stops something, or `absent`, which only leaves something out."""
    told: str
    mend: str = ""


def examine() -> list[Finding]:
    """Everything, in the order in which it is needed; nothing is changed."""
    return [*_gpu(), _memory(), _disk(), *_build(), *_tokens()]


def _gpu() -> list[Finding]:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return [
            Finding(
                "GPU",
                "absent",
                "no nvidia-smi",
                "on a machine with an NVIDIA card: `sudo apt install nvidia-driver-550`",
            )
        ]
    told = subprocess.run([smi], capture_output=True, text=True, check=False)
    driver = _version(r"Driver Version:\s*(\d+)\.(\d+)", told.stdout)
    cuda = _version(r"CUDA Version:\s*(\d+)\.(\d+)", told.stdout)
    if told.returncode or driver is None:
        mend = "`sudo modprobe nvidia`, or reboot after an update of the driver"
        return [Finding("GPU", "missing", f"nvidia-smi says: {(told.stdout + told.stderr).strip()[:200]}", mend)]
    newer = "`sudo apt install nvidia-driver-550`, then reboot"
    found = [_at_least("driver", driver, DRIVER, newer)]
    return found + ([_at_least("CUDA", cuda, CUDA, newer)] if cuda else [])


def _version(pattern: str, text: str) -> tuple[int, int] | None:
    found = re.search(pattern, text)
    return (int(found[1]), int(found[2])) if found else None


def _at_least(what: str, found: tuple[int, int], needed: tuple[int, int], mend: str) -> Finding:
    told = f"{found[0]}.{found[1]}, needed {needed[0]}.{needed[1]}"
    return Finding(what, "ok", told) if found >= needed else Finding(what, "missing", told, mend)


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / GIB
    told = f"{free:.1f} GiB free, {MEMORY_GIB} for the tiny base"
    mend = "close what you can, or run the stage on Modal: `modal run app.py::train …`"
    return Finding("memory", "ok", told) if free >= MEMORY_GIB else Finding("memory", "missing", told, mend)


def _disk() -> Finding:
    folder = paths.models()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    told = f"{free:.0f} GB free at {paths.models()}, {DISK_GB} for a build and small models"
    mend = "`tuneline models remove NAME`, or set TUNELINE_MODELS, TUNELINE_RUNS and TUNELINE_CACHE to another disk"
    return Finding("disk", "ok", told) if free >= DISK_GB else Finding("disk", "missing", told, mend)


def _build() -> list[Finding]:
    found = []
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    mend = "`sudo apt install g++`; on a Mac `xcode-select --install`"
    told = "builds llama.cpp once" if compiler is None else compiler
    found.append(Finding("compiler", "ok" if compiler else "missing", told, "" if compiler else mend))
    if not any(paths.cache().glob("llama.cpp-*")):
        found.append(Finding("llama.cpp", "absent", f"not built in {paths.cache()}", "`make llama`"))
    return found


def _tokens() -> list[Finding]:
    hub = "for gated models; `export HF_TOKEN=…` (https://huggingface.co/settings/tokens)"
    modal = "to run on Modal; `modal token new`"
    tokens = {"HF_TOKEN": hub, "WANDB_API_KEY": "for W&B; `export WANDB_API_KEY=…` (https://wandb.ai/authorize)"}
    found = [
        Finding(name, "ok", "set") if os.environ.get(name) else Finding(name, "absent", "not set", mend)
        for name, mend in tokens.items()
    ]
    signed_in = os.environ.get("MODAL_TOKEN_ID") or Path("~/.modal.toml").expanduser().exists()
    return [
        *found,
        Finding("Modal", "ok", "signed in") if signed_in else Finding("Modal", "absent", "not signed in", modal),
    ]
