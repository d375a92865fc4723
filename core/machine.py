"""The machine that this process runs on, as it is named beside every figure that was measured on it."""

import getpass
import os
import platform
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

CPUINFO = Path("/proc/cpuinfo")
VECTORS = {"amx_tile": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
"""Flags of a processor that decide which kernels run on it, and so the last digits of a result; the widest first."""
SMI_TIMEOUT_S = 20


class Machine(BaseModel):
    """A processor, how many of its cores were used, and the GPUs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor: str
    """Its name and its widest vector instructions."""
    cores: int
    """Cores that this process may use."""
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        gpus = "".join(f", {self.gpus.count(gpu)} × {gpu}" for gpu in dict.fromkeys(self.gpus))
        return f"{self.processor}, {self.cores} core{'' if self.cores == 1 else 's'}{gpus}"


def describe_machine() -> Machine:
    """Return this machine; what cannot be found out is `unknown`, or left out."""
    return Machine(processor=_read_processor(), cores=usable_cores(), gpus=_list_gpus())


def get_user_name() -> str:
    """Return the name of this process's user, for records; `unknown` where they have none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _read_processor() -> str:
    text = CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else ""
    name = re.search(r"^(?:model name|Model)\s*: (.+)$", text, re.M)
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.M)
    vectors = next((word for flag, word in VECTORS.items() if flags and flag in flags[1].split()), None)
    described = name[1].strip() if name else platform.processor() or platform.machine() or "unknown"
    return f"{described} ({vectors})" if vectors else described


@cache
def _list_gpus() -> tuple[str, ...]:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return ()
    try:
        listed = subprocess.run([smi, "-L"], capture_output=True, text=True, check=False, timeout=SMI_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):  # a driver that hangs must not stop a stage
        return ()
    return tuple(re.findall(r"^GPU \d+: (.+?) \(UUID", listed.stdout, re.M))
