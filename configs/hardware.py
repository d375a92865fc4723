"""What hardware can do, what it costs, and what may be asked for: `hardware.yaml`, checked."""

import os
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError

from tuneline.configs.section import StrictModel
from tuneline.core.errors import BadRecipe

FILE = Path(__file__).parent / "hardware.yaml"
OVERRIDES = "TUNELINE_HARDWARE"
"""Environment variable with a YAML file whose keys replace the shipped ones."""
GIB = 1 << 30
HOURS_A_MONTH = 730
Range = tuple[float, float]
"""Lowest and highest."""


class Gpu(StrictModel):
    """One kind of GPU for hire on Modal."""

    usd_per_second: float
    most: int
    """In one container."""


class Chip(StrictModel):
    """What one kind of GPU can do, wherever it is."""

    memory_gib: float
    tflops: float
    """Dense 16-bit matrices, 32-bit sums."""
    gb_per_second: float
    """From its own memory."""
    consumer: bool = False
    bf16: bool = True
    """Whether it can train in bf16, which is what we train in."""


class Speed(StrictModel):
    """What of a chip's speed training reaches, and what else takes time."""

    lora: Range
    qlora: Range
    full: Range
    experts: Range
    gpus: Range
    cpu_gflops_per_core: Range
    load_gb_per_second: Range
    wait_minutes: Range


class PriceSource(StrictModel):
    """Where a price was read, and when."""

    as_of: date
    source: str
    verified: bool
    """Whether on the provider's own page."""
    note: str = ""


class GpuRental(PriceSource):
    """A provider that rents GPUs by the hour."""

    usd_per_hour: dict[str, Range]
    only: dict[str, int] = {}
    """Kinds rented out only so many at a time."""


class FlatRate(PriceSource):
    """An offer at a price a month."""

    usd_per_month: float
    hours: dict[str, Range] = {}
    """Of a GPU in that price."""
    cores: float = 0
    memory_gib: float = 0


class TokenPrices(PriceSource):
    """What others ask for tokens."""

    usd_per_million: dict[str, Range]
    """In and out."""


class Hardware(StrictModel):
    """Chips everywhere; prices and limits of Modal, prices of others."""

    as_of: date
    provider: Literal["modal"]
    gpus: dict[str, Gpu]
    usd_per_core_second: float = Field(gt=0)
    usd_per_gib_second: float = Field(gt=0)
    disk_gib_per_gib: float = Field(gt=0)
    longest_call_hours: float = Field(gt=0)
    chips: dict[str, Chip]
    usable: float = Field(gt=0, le=1)
    speed: Speed
    elsewhere: dict[str, GpuRental]
    flat: dict[str, FlatRate]
    api: TokenPrices

    def usd_per_second(self, gpu: str | None, cores: float, memory_gib: float, disk_gib: float = 0) -> float:
        """Of one container; `gpu` is a kind, or a kind and a count (`H100:2`), `disk_gib` what is asked for.

        Raises:
            BadRecipe: no such kind, or more than fit in a container.
        """
        billed_gib = max(memory_gib, disk_gib / self.disk_gib_per_gib)
        price = cores * self.usd_per_core_second + billed_gib * self.usd_per_gib_second
        if gpu:
            kind, count = self.parse_gpu(gpu)
            price += count * self.gpus[kind].usd_per_second
        return price

    def parse_gpu(self, gpu: str) -> tuple[str, int]:
        """(kind, count) of `H100` or `H100:2`.

        Raises:
            BadRecipe: no such kind, or more than fit in a container. Modal's client would send either on.
        """
        kind, _, count = gpu.partition(":")
        if kind not in self.gpus:
            raise BadRecipe(f"gpu: {gpu!r}: no such kind; {FILE.name} has {', '.join(self.gpus)}")
        if count and not (count.isdecimal() and 1 <= int(count) <= self.gpus[kind].most):
            raise BadRecipe(f"gpu: {gpu!r}: a container holds 1 to {self.gpus[kind].most} of {kind}")
        return kind, int(count or 1)

    def usable_bytes(self, chip: str) -> float:
        """Of one GPU."""
        return self.chips[chip].memory_gib * GIB * self.usable


@cache
def hardware() -> Hardware:
    """The table as shipped, with the user's own prices over it.

    Raises:
        BadRecipe: the user's file is not there, or wrong.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml is
    table = yaml.load(FILE.read_text(encoding="utf-8"), loader)
    own = os.environ.get(OVERRIDES)
    if not own:
        return Hardware.model_validate(table)
    try:
        return Hardware.model_validate(_over(table, yaml.safe_load(Path(own).read_text(encoding="utf-8"))))
    except (OSError, yaml.YAMLError, ValidationError, TypeError) as error:
        raise BadRecipe(f"{OVERRIDES}={own}: {error}") from None


def _over(table: Any, own: Any) -> Any:
    if not (isinstance(table, dict) and isinstance(own, dict)):
        return own
    return table | {key: _over(table.get(key), value) for key, value in own.items()}


def _for_hire(gpu: str) -> str:
    hardware().parse_gpu(gpu)
    return gpu


ModalGpu = Annotated[str, AfterValidator(_for_hire)]
"""A kind of GPU that Modal rents out, alone or with a count, as in `H100:2`."""
