"""What a second of hardware costs, and what may be asked for: `hardware.yaml`, checked."""

from datetime import date
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from stages.errors import BadRecipe

FILE = Path(__file__).parent / "hardware.yaml"


class Gpu(BaseModel):
    """One kind of GPU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_gib: int
    usd_per_second: float
    most: int
    """In one container."""


class Hardware(BaseModel):
    """Prices and limits of one provider."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: date
    provider: Literal["modal"]
    gpus: dict[str, Gpu]
    usd_per_core_second: float = Field(gt=0)
    usd_per_gib_second: float = Field(gt=0)
    longest_call_hours: float = Field(gt=0)

    def usd_per_second(self, gpu: str | None, cores: float, memory_gib: float) -> float:
        """Of one container; `gpu` is a kind, or a kind and a count (`H100:2`).

        Raises:
            BadRecipe: no such kind, or more than fit in a container.
        """
        price = cores * self.usd_per_core_second + memory_gib * self.usd_per_gib_second
        if gpu:
            kind, count = self.parse(gpu)
            price += count * self.gpus[kind].usd_per_second
        return price

    def parse(self, gpu: str) -> tuple[str, int]:
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


@cache
def hardware() -> Hardware:
    """The table as shipped."""
    return Hardware.model_validate(yaml.safe_load(FILE.read_text(encoding="utf-8")))
