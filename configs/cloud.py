"""What is deployed, and what may cost money unattended: the schema and reader of `cloud.yaml`."""

from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from tuneline.configs.hardware import ModalGpu, hardware
from tuneline.configs.section import Section, explain_first
from tuneline.configs.yaml_loader import read_yaml
from tuneline.core.errors import BadRecipe

FILE = Path(__file__).parent / "cloud.yaml"
SECRETS = {"huggingface": "HF_TOKEN", "wandb": "WANDB_API_KEY", "webhook": "TUNELINE_WEBHOOK"}
"""Secrets (`tuneline-NAME` on Modal), each with the key that it must have."""

_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


class Schedule(Section):
    """The scheduled evaluation of every promoted model."""

    cron: str | None = None
    """Five fields, UTC; None is off."""
    max_cost_usd: float = Field(5, gt=0)
    """Most that one evaluation may cost; it is stopped when it could cost more."""

    def seconds(self, cores: float, memory_gib: float) -> int:
        """Return its time limit on a container of that size; always below that of Modal's calls."""
        facts = hardware()
        longest = 3600 * (facts.longest_call_hours - 1)
        return int(max(1, min(longest, self.max_cost_usd / facts.usd_per_second(None, cores, memory_gib))))

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, cron: str | None) -> str | None:
        if cron is None:
            return None
        fields = cron.split()
        if len(fields) != len(_RANGES):
            raise ValueError(f"{cron!r}: five fields: minute hour day month weekday")
        for field, (low, high) in zip(fields, _RANGES, strict=True):
            for part in field.split(","):
                span, _, step = part.partition("/")
                numbers = [] if span == "*" else span.split("-")
                if not all(n.isdecimal() and low <= int(n) <= high for n in numbers) or len(numbers) > 2:
                    raise ValueError(f"{cron!r}: {part!r} is not a number or range within {low}-{high}, or *")
                if "/" in part and not (step.isdecimal() and int(step) > 0):
                    raise ValueError(f"{cron!r}: {part!r}: a step is a whole number from 1")
        return cron


class Endpoint(Section):
    """The server of promoted models."""

    form: Literal["gguf", "adapter", "merged"] = "gguf"
    base: str | None = None
    gpu: ModalGpu | None = None
    cores: float = Field(2, gt=0)
    memory_gib: float = Field(4, gt=0)
    min_containers: int = Field(0, ge=0)
    """Containers that stay up, and cost, without requests."""
    scaledown_minutes: float = Field(5, gt=0, le=60)
    """Idle time after which a container stops."""
    concurrency: int = Field(8, gt=0)
    """Requests that one container answers at a time."""

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.form != "gguf" and not self.gpu:
            raise ValueError(f"form {self.form} is served by vLLM, which needs a gpu")
        if self.form == "adapter" and not self.base:
            raise ValueError("form adapter needs base: the one whose adapters are served")
        return self

    @property
    def usd_per_hour(self) -> float:
        """The price of one running container."""
        return 3600 * hardware().usd_per_second(self.gpu, self.cores, self.memory_gib)


class Cloud(Section):
    """`cloud.yaml`."""

    secrets: tuple[Literal["huggingface", "wandb", "webhook"], ...] = ()
    schedule: Schedule = Schedule()
    endpoint: Endpoint = Endpoint()


@cache
def cloud(file: Path = FILE) -> Cloud:
    """Return the settings in a file.

    Raises:
        BadRecipe: not YAML, an unknown key or a wrong value.
    """
    try:
        return Cloud.model_validate(read_yaml(file, BadRecipe))
    except ValidationError as error:
        raise BadRecipe(f"{file}: {explain_first(error)}") from None
