"""What hardware can do, what it costs, and what Modal rents out: the schema and reader of `hardware.yaml`."""

from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from tuneline.configs.section import StrictModel, explain_first
from tuneline.configs.yaml_loader import read_yaml
from tuneline.core.environment import read_variable
from tuneline.core.errors import BadRecipe

FILE = Path(__file__).parent / "hardware.yaml"
OVERRIDES = "TUNELINE_HARDWARE"
"""Environment variable with a YAML file whose keys replace the shipped ones."""
GIB = 1 << 30
HOURS_A_MONTH = 730
Range = tuple[float, float]
"""Lowest and highest value."""


class Gpu(StrictModel):
    """One kind of GPU that Modal rents out."""

    usd_per_second: float
    most: int
    """Maximum number in one container."""


class Chip(StrictModel):
    """The properties of one kind of GPU, wherever it is."""

    memory_gib: float
    tflops: float
    """Peak TFLOP/s with dense 16-bit matrices and 32-bit accumulation."""
    gb_per_second: float
    """Memory bandwidth."""
    consumer: bool = False
    bf16: bool = True
    """Whether it supports bf16, in which models are trained."""


class Speed(StrictModel):
    """The shares of a chip's peak that training reaches, and other durations."""

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
    """Whether it was read on the provider's own page."""
    note: str = ""


class GpuRental(PriceSource):
    """A provider that rents GPUs by the hour."""

    usd_per_hour: dict[str, Range]
    only: dict[str, int] = {}
    """Kinds that are rented out only in machines of this many GPUs."""


class FlatRate(PriceSource):
    """An offer with a monthly price."""

    usd_per_month: float
    hours: dict[str, Range] = {}
    """GPU hours included in the price, by kind."""
    cores: float = 0
    memory_gib: float = 0


class TokenPrices(PriceSource):
    """What hosted APIs charge for tokens."""

    usd_per_million: dict[str, Range]
    """Prices of (input, output) tokens, by size of the model."""


class Hardware(StrictModel):
    """`hardware.yaml`: GPUs, Modal's prices and limits, and other providers' prices."""

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

    @property
    def source(self) -> str:
        """Where the prices of Modal come from: the files, and their date."""
        files = [f"configs/{FILE.name}", *([OVERRIDES] if read_variable(OVERRIDES) else [])]
        return f"{' and '.join(files)} of {self.as_of}"

    def usd_per_second(self, gpu: str | None, cores: float, memory_gib: float, disk_gib: float = 0) -> float:
        """Return the price of one container; `gpu` is a kind with an optional count, as in `H100:2`.

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
        """Return (kind, count) of `H100` or `H100:2`.

        Raises:
            BadRecipe: no such kind, or more than fit in a container. Modal's client checks neither.
        """
        kind, _, count = gpu.partition(":")
        if kind not in self.gpus:
            raise BadRecipe(f"gpu: {gpu!r}: no such kind; {FILE.name} has {', '.join(self.gpus)}")
        if count and not (count.isdecimal() and 1 <= int(count) <= self.gpus[kind].most):
            raise BadRecipe(f"gpu: {gpu!r}: a container holds 1 to {self.gpus[kind].most} of {kind}")
        return kind, int(count or 1)

    def usable_bytes(self, chip: str) -> float:
        """Return the memory of one GPU that a process can use."""
        return self.chips[chip].memory_gib * GIB * self.usable


@cache
def hardware() -> Hardware:
    """Return the shipped table, in which the user's own file replaces keys.

    Raises:
        BadRecipe: the user's file is missing or wrong.
    """
    overrides = read_variable(OVERRIDES)
    return read_hardware(Path(overrides) if overrides else None)


def read_hardware(overrides: Path | None) -> Hardware:
    """Return the shipped table, in which the keys of the file `overrides` replace its own.

    Raises:
        BadRecipe: the file is missing or wrong.
    """
    table = read_yaml(FILE, BadRecipe)
    if overrides is None:
        return Hardware.model_validate(table)
    try:
        return Hardware.model_validate(_merge(table, read_yaml(overrides, BadRecipe)))
    except ValidationError as error:
        raise BadRecipe(f"{OVERRIDES}={overrides}: {explain_first(error)}") from None


def _merge(table: Any, overrides: Any) -> Any:
    if not (isinstance(table, dict) and isinstance(overrides, dict)):
        return overrides
    return table | {key: _merge(table.get(key), value) for key, value in overrides.items()}


def _check_gpu(gpu: str) -> str:
    hardware().parse_gpu(gpu)
    return gpu


ModalGpu = Annotated[str, AfterValidator(_check_gpu)]
"""A kind of GPU that Modal rents out, with an optional count, as in `H100:2`."""
