"""Which bases a machine holds, to run and to train, and which of them suits whom."""

import re
import shutil
import subprocess
from dataclasses import dataclass, replace

from tuneline.configs.hardware import GIB, hardware
from tuneline.configs.models import Shape, registry
from tuneline.core.errors import BadRequest
from tuneline.stages.plan.memory import Work, peak

CONTEXT = 4096
"""Tokens of the one stream that has room beside the weights."""
RUN_BITS = {"16 bit": 16.0, "8 bit": 8.5, "4 bit": 4.89}
"""Of a parameter: as it is, Q8_0, Q4_K_M."""
TRAIN = {"16 bit": Work(method="lora", learned=0.5), "4 bit": Work(method="qlora", learned=0.5)}
"""Rank 16 on all matrices, one row of 2,048 tokens at a time, half of it learned. bitsandbytes trains in 8 bit too; we
do not."""
ENGINE = 1.1
"""What an engine needs, of weights and cache."""


@dataclass(frozen=True)
class Machine:
    """What a base shall fit."""

    said: str
    gpu_bytes: float
    """That can be used of one GPU; 0: none."""
    gpus: int
    cpu_bytes: float = 0.0


@dataclass(frozen=True)
class Fit:
    """How a base fits: the best of each, None if it does not."""

    model: str
    run: str | None
    train: str | None


def machine(gpu: str) -> Machine:
    """`H100`, `H100:2` or an amount of memory (`11GiB`, `24 GB`).

    Raises:
        BadRequest: no such GPU, no amount.
    """
    if amount := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GiB|GB)", gpu.strip(), re.I):
        unit = GIB if amount[2].lower() == "gib" else 1e9
        return Machine(gpu, float(amount[1]) * unit * hardware().usable, 1)
    kind, _, count = gpu.partition(":")
    asked = kind.strip().lower().replace(" ", "-")
    meant = [chip for chip in hardware().chips if asked and asked in chip.lower()]
    exact = [chip for chip in meant if chip.lower() == asked]
    chosen = exact or meant
    if len(chosen) != 1 or not (count or "1").isdecimal() or int(count or 1) == 0:
        told = f"could be {', '.join(meant)}" if len(chosen) > 1 else f"known are {', '.join(hardware().chips)}"
        raise BadRequest(f"--gpu {gpu!r}: a kind and a count ('H100:2'), or its memory ('11GiB'); {told}")
    return Machine(gpu, hardware().usable_bytes(chosen[0]), int(count or 1))


def this_machine() -> Machine:
    """By nvidia-smi, where there is one; else the CPU's memory."""
    import psutil

    free = float(psutil.virtual_memory().available)
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return Machine("this machine, no GPU", 0.0, 0, free)
    words = [smi, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    told = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    if not told:
        return Machine("this machine, no GPU", 0.0, 0, free)
    smallest = min(float(each) for each in told) * 2**20
    return Machine(f"this machine, {len(told)} GPU", smallest * 0.98, len(told), free)


def fit(where: Machine) -> list[Fit]:
    """Every base we know, the largest first."""
    models = sorted(registry().models, key=lambda key: (-registry().shape(key).total, key))
    return [Fit(key, _run(registry().shape(key), where), _train(key, where)) for key in models]


def run_bytes(shape: Shape, bits: float) -> float:
    """To answer one stream; what is outside the text model stays at 16 bit."""
    return ENGINE * (shape.text * bits / 8 + 2 * shape.other + shape.kv_bytes(CONTEXT))


def _run(shape: Shape, where: Machine) -> str | None:
    room = where.gpu_bytes * where.gpus or where.cpu_bytes
    return next((name for name, bits in RUN_BITS.items() if run_bytes(shape, bits) <= room), None)


def _train(key: str, where: Machine) -> str | None:
    if not registry().is_trainable(key):
        return None
    shape = registry().shape(key)
    for name, work in TRAIN.items():
        if not where.gpus:
            on_cpu = Work.on_the_cpu(method=work.method, learned=work.learned)
            if peak(shape, on_cpu).total <= where.cpu_bytes:
                return f"{name}, CPU"
            continue
        if peak(shape, work).total <= where.gpu_bytes:
            return name if where.gpus == 1 else f"{name}, DDP"
        sharded = replace(work, gpus=where.gpus, sharded=True)
        if where.gpus > 1 and peak(shape, sharded).total <= where.gpu_bytes:
            return f"{name}, FSDP2"
    return None


GUIDE: dict[str, tuple[tuple[str, ...], str]] = {
    "one consumer GPU": (
        ("llama-3.1-8b-instruct", "mistral-7b-instruct", "llama-3.2-3b-instruct"),
        "24 GiB train 8B in 4 bit and serve it at Q8_0; 12 GiB do with shorter rows. Recipe: cheap",
    ),
    "one datacenter GPU": (
        ("llama-3.3-70b-instruct", "llama-4-scout-instruct", "llama-3.1-8b-instruct"),
        "80 GiB train 70B and Scout in 4 bit, 8B in 16. Recipes: balanced, llama-4-scout",
    ),
    "several GPUs": (
        ("llama-3.3-70b-instruct", "llama-4-scout-instruct", "llama-4-maverick-instruct"),
        "70B in 16 bit, sharded; Maverick in 4 bit needs eight. Recipe: production",
    ),
    "CPU only": (
        ("llama-3.2-1b-instruct", "llama-3.2-3b-instruct", "tiny"),
        "serve Q4_K_M with llama.cpp; train elsewhere. Only `tiny` trains here in minutes. Recipe: demo",
    ),
    "phone": (
        ("llama-3.2-1b-instruct", "llama-3.2-3b-instruct"),
        "under 1 GB and about 2 GB at Q4_K_M; narrow tasks only",
    ),
    "privacy": (
        ("llama-3.1-8b-instruct", "llama-3.3-70b-instruct", "mistral-7b-instruct"),
        "train and serve on machines of your own, with serve.form gguf or merged; vast.ai's are private strangers'",
    ),
    "cost": (
        ("llama-3.1-8b-instruct", "llama-3.2-3b-instruct", "mistral-7b-instruct"),
        "the smallest that passes your suites; a GGUF on a CPU costs nothing while nobody asks. Recipe: cheap",
    ),
    "quality": (
        ("llama-3.3-70b-instruct", "llama-4-scout-instruct", "llama-3.1-405b-instruct"),
        "measure it: `tuneline evaluate` holds base and tuned against your own suites. Recipe: production",
    ),
}
"""Constraints people have, with bases for them in order, and what follows. Ours, by memory and price; not measured."""


def pick(constraint: str) -> tuple[str, tuple[str, ...], str]:
    """(the constraint, bases, advice).

    Raises:
        BadRequest: none we know.
    """
    asked = constraint.strip().lower().replace("-", " ")
    found = [name for name in GUIDE if asked and asked in name.lower()]
    if asked in found or len(found) == 1:
        name = asked if asked in found else found[0]
        return name, *GUIDE[name]
    raise BadRequest(f"--constraint {constraint!r}: {'could be' if found else 'known are'} {', '.join(found or GUIDE)}")
