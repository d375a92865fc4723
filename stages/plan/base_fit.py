"""Bases that a machine can run and train, and in how many bits."""

import re
from dataclasses import dataclass, replace

from tuneline.configs.hardware import GIB, hardware
from tuneline.configs.models import Shape, registry
from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.nvidia_smi import SHOWN, run_nvidia_smi
from tuneline.stages.plan.memory import Workload, estimate_peak_memory

CONTEXT = 4096
"""Tokens of the one stream whose KV cache must fit beside the weights."""
RUN_BITS = {"16 bit": 16.0, "8 bit": 8.5, "4 bit": 4.89}
"""Bits per parameter: unquantized, Q8_0, Q4_K_M."""
TRAIN_WORKLOADS = {
    "16 bit": Workload(method="lora", loss_share=0.5),
    "4 bit": Workload(method="qlora", loss_share=0.5),
}
"""Rank 16 on all matrices, one row of 2,048 tokens at a time, half of it in the loss. bitsandbytes can train in 8 bit,
too; Tuneline does not."""
ENGINE_OVERHEAD = 1.1
"""Memory an engine needs, over that of weights and KV cache."""
USABLE_SHARE = 0.98
"""Of the memory that nvidia-smi reports."""
MIB = 1 << 20


@dataclass(frozen=True)
class Machine:
    """Memory that a base must fit in."""

    name: str
    gpu_bytes: float
    """Usable bytes of one GPU; 0 without a GPU."""
    gpus: int
    cpu_bytes: float = 0.0


@dataclass(frozen=True)
class BaseFit:
    """The highest precision in which a base runs and trains on a machine; None if it does not fit."""

    model: str
    run: str | None
    train: str | None


def parse_machine(gpu: str) -> Machine:
    """Return the machine for `H100`, `H100:2` or an amount of memory (`11GiB`, `24 GB`).

    Raises:
        BadRequest: neither a known GPU nor an amount of memory.
    """
    if amount := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GiB|GB)", gpu.strip(), re.I):
        unit = GIB if amount[2].lower() == "gib" else 1e9
        return Machine(gpu, float(amount[1]) * unit * hardware().usable, 1)
    kind, _, count = gpu.partition(":")
    name = kind.strip().lower().replace(" ", "-")
    matches = [chip for chip in hardware().chips if name and name in chip.lower()]
    chosen = [chip for chip in matches if chip.lower() == name] or matches
    if len(chosen) != 1 or not (count or "1").isdecimal() or int(count or 1) == 0:
        hint = f"could be {', '.join(matches)}" if len(chosen) > 1 else f"known are {', '.join(hardware().chips)}"
        raise BadRequest(f"--gpu {gpu!r}: a kind and a count ('H100:2'), or its memory ('11GiB'); {hint}")
    return Machine(gpu, hardware().usable_bytes(chosen[0]), int(count or 1))


def detect_machine() -> Machine:
    """Return this machine's GPUs as nvidia-smi reports them, or the CPU's memory if there are none.

    Raises:
        StageFailed: nvidia-smi is there and does not work.
    """
    import psutil

    available = float(psutil.virtual_memory().available)
    without_gpu = Machine("this machine, no GPU", 0.0, 0, available)
    remedy = "`tuneline doctor` says what to do; or name a GPU, as in `--gpu 'H100:2'` or `--gpu 11GiB`"
    try:
        output = run_nvidia_smi("--query-gpu=memory.total", "--format=csv,noheader,nounits")
    except StageFailed as error:
        raise StageFailed(f"{error}; {remedy}") from None
    if not output or output.startswith("No devices"):
        return without_gpu
    lines = output.splitlines()
    if wrong := [line for line in lines if not re.fullmatch(r"\s*[1-9]\d{1,8}\s*", line, re.ASCII)]:
        raise StageFailed(f"nvidia-smi says {wrong[0][:SHOWN]!r} instead of a GPU's memory; {remedy}")
    smallest = min(map(int, lines)) * MIB
    return Machine(f"this machine, {len(lines)} GPU", smallest * USABLE_SHARE, len(lines), available)


def fit_bases(machine: Machine) -> list[BaseFit]:
    """Return how every base in the registry fits, the largest first."""
    models = sorted(registry().models, key=lambda key: (-registry().shape(key).total, key))
    return [
        BaseFit(key, _find_run_precision(registry().shape(key), machine), _find_training(key, machine))
        for key in models
    ]


def estimate_run_bytes(shape: Shape, bits: float) -> float:
    """Return the memory to serve one stream; parameters outside the text model stay in 16 bit."""
    return ENGINE_OVERHEAD * (shape.text * bits / 8 + 2 * shape.other + shape.kv_bytes(CONTEXT))


def _find_run_precision(shape: Shape, machine: Machine) -> str | None:
    available = machine.gpu_bytes * machine.gpus or machine.cpu_bytes
    return next((name for name, bits in RUN_BITS.items() if estimate_run_bytes(shape, bits) <= available), None)


def _find_training(key: str, machine: Machine) -> str | None:
    """Return the highest precision that fits, and how the model is distributed; None if Tuneline cannot train it."""
    if not registry().is_trainable(key):
        return None
    shape = registry().shape(key)
    for name, work in TRAIN_WORKLOADS.items():
        if not machine.gpus:
            on_cpu = Workload.on_the_cpu(method=work.method, loss_share=work.loss_share)
            if estimate_peak_memory(shape, on_cpu).total <= machine.cpu_bytes:
                return f"{name}, CPU"
            continue
        if estimate_peak_memory(shape, work).total <= machine.gpu_bytes:
            return name if machine.gpus == 1 else f"{name}, DDP"
        sharded = replace(work, gpus=machine.gpus, sharded=True)
        if machine.gpus > 1 and estimate_peak_memory(shape, sharded).total <= machine.gpu_bytes:
            return f"{name}, FSDP2"
    return None
