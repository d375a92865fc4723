"""What is deployed, and what may cost money unattended: the schema and reader of `cloud.yaml`."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from tuneline.configs.hardware import ModalGpu, hardware
from tuneline.configs.section import Section, explain_first
from tuneline.configs.yaml_loader import read_yaml
from tuneline.core.environment import read_variable
from tuneline.core.errors import BadRecipe

VARIABLE = "TUNELINE_CLOUD"
FILE = Path(read_variable(VARIABLE) or Path(__file__).parent / "cloud.yaml").expanduser().absolute()
"""What is deployed: the file that `TUNELINE_CLOUD` names, else the checkout's own."""
SECRETS = {"huggingface": "HF_TOKEN", "wandb": "WANDB_API_KEY", "webhook": "TUNELINE_WEBHOOK"}
"""Secrets (`tuneline-NAME` on Modal), each with the key that it must have."""

PROXY_KEY, PROXY_SECRET = "TUNELINE_PROXY_KEY", "TUNELINE_PROXY_SECRET"
"""Keys of the Secret with which the gateway opens the engines' address: a proxy token's id and secret."""

NONPREEMPTIBLE_PRICE = 3.0
"""Times the usual price (modal.com/docs/guide/preemption). A preempted call is started again with all of its time."""
GPU_SHARE = 0.9
"""Share of a GPU's memory that vLLM takes by default (`gpu_memory_utilization`). What one takes no other gets: a second
one does not start, whatever the first has left."""
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


class Schedule(Section):
    """The scheduled evaluation of every promoted model."""

    cores: ClassVar[int] = 2
    """Cores of its container, and no more: it asks at night, when nobody waits."""
    memory_gib: ClassVar[int] = 4

    cron: str | None = None
    """Five fields, UTC; None is off."""
    max_cost_usd: float = Field(5, gt=0)
    """Most that one evaluation may cost; it is stopped when it could cost more."""

    @classmethod
    def usd_per_hour(cls) -> float:
        """Return the price of its container and of the Function that waits for it."""
        usd_per_second = hardware().usd_per_second(None, cls.cores + 0.25, cls.memory_gib + 0.5)
        return 3600 * NONPREEMPTIBLE_PRICE * usd_per_second

    def seconds(self, cores: float, memory_gib: float) -> int:
        """Return its time limit on a container of that size; always below that of Modal's calls."""
        facts = hardware()
        longest = 3600 * (facts.longest_call_hours - 1)
        usd_per_second = NONPREEMPTIBLE_PRICE * facts.usd_per_second(None, cores, memory_gib)
        return int(max(1, min(longest, self.max_cost_usd / usd_per_second)))

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
    """The engines of promoted models. The gateway asks them, and nobody else can."""

    form: Literal["gguf", "adapter", "merged"] = "gguf"
    """What it serves: GGUF files by llama.cpp on cores, adapters or merged models by vLLM on `gpu`."""
    base: str | None = None
    """With form adapter: the base whose adapters are served, a name or a hub id, and `@COMMIT` if only that one."""
    gpu: ModalGpu | None = None
    models: int = Field(1, gt=0)
    """With form merged: names served at a time. Each has a vLLM, and while one changes its version, one more."""
    cores: float = Field(2, gt=0)
    memory_gib: float = Field(4, gt=0)
    min_containers: int = Field(0, ge=0)
    """Containers that stay up, and cost, without requests."""
    max_containers: int = Field(4, gt=0)
    """Most containers: a bound on the cost."""
    startup_minutes: float = Field(30, gt=0, le=60)
    """Most that a container may take to start its engines; requests wait for it."""
    scaledown_minutes: float = Field(5, gt=0, le=60)
    """Idle time after which a container stops."""
    concurrency: int = Field(8, gt=0)
    """Requests that one container answers at a time."""

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.form == "gguf" and self.gpu:
            raise ValueError(
                f"gpu {self.gpu}: form gguf is served by llama.cpp, which is built for CPUs; write gpu: null"
            )
        if self.form != "gguf" and not self.gpu:
            raise ValueError(f"form {self.form} is served by vLLM, which needs a gpu")
        if self.min_containers > self.max_containers:
            raise ValueError(f"min_containers: {self.min_containers} is more than max_containers")
        if self.form == "adapter" and not self.base:
            raise ValueError("form adapter needs base: the one whose adapters are served")
        return self

    @property
    def servers(self) -> int:
        """The most vLLMs that are on its GPU at a time: one for all adapters of a base; of merged models one each, and
        one that starts while the version before it still serves."""
        return self.models + 1 if self.form == "merged" else 1

    @property
    def gpu_share(self) -> float:
        """The share of its GPU's memory that each vLLM gets."""
        return math.floor(100 * GPU_SHARE / self.servers) / 100

    @property
    def usd_per_hour(self) -> float:
        """The price of one running container."""
        return 3600 * hardware().usd_per_second(self.gpu, self.cores, self.memory_gib)


class GatewayContainer(Section):
    """The gateway: the address that clients have."""

    secrets: tuple[str, ...] = ()
    """Modal Secrets that it has: the engines' proxy token, and keys of the providers in `gateway.yaml`."""
    cores: float = Field(1, gt=0)
    memory_gib: float = Field(1, gt=0)
    min_containers: int = Field(0, ge=0)
    """Containers that stay up, and cost, without requests."""
    max_containers: int = Field(1, gt=0)
    """Most containers; more than one needs `limits.storage` in `gateway.yaml`, where they count together."""
    scaledown_minutes: float = Field(5, gt=0, le=60)
    """Idle time after which a container stops."""

    @model_validator(mode="after")
    def _check_containers(self) -> Self:
        if self.min_containers > self.max_containers:
            raise ValueError(f"min_containers: {self.min_containers} is more than max_containers")
        return self

    @property
    def usd_per_hour(self) -> float:
        """The price of one running container."""
        return 3600 * hardware().usd_per_second(None, self.cores, self.memory_gib)

    def check_storage(self, storage: str) -> None:
        """Check that gateways which count keys' rates in their own memory are one.

        Raises:
            BadRecipe: more than one is allowed, and each would give every key its whole rate.
        """
        if storage == "memory" and self.max_containers > 1:
            raise BadRecipe(
                f"{FILE}: gateway.max_containers: {self.max_containers}: each would count keys' rates for itself; set "
                "limits.storage in configs/gateway.yaml to a Redis or Valkey, or max_containers to 1"
            )

    def check_assistant(self, handlers: Sequence[str]) -> None:
        """Check that an assistant, if there are `handlers` for one, has one container: its conversations are one file.

        Raises:
            BadRecipe: more than one is allowed.
        """
        if handlers and self.max_containers > 1:
            raise BadRecipe(
                f"{FILE}: gateway.max_containers: {self.max_containers}: conversations of the assistant in "
                "configs/gateway.yaml are in one SQLite file, which one container writes; set it to 1, or remove "
                "assistant.handlers there and serve the assistant with `tuneline gateway`"
            )


class PageContainer:
    """The page's container. Sessions are in its memory, and a browser's WebSocket returns to it: there is one."""

    cores: ClassVar[float] = 1
    memory_gib: ClassVar[float] = 1
    min_containers: ClassVar[int] = 0
    max_containers: ClassVar[int] = 1
    scaledown_minutes: ClassVar[float] = 10
    """Time after which it stops when no page is open; an open one keeps it up."""
    inputs: ClassVar[int] = 200
    """WebSockets, one for each opened page, and requests that it has at a time."""

    @property
    def usd_per_hour(self) -> float:
        """Its price while it runs."""
        return 3600 * hardware().usd_per_second(None, self.cores, self.memory_gib)


PAGE = PageContainer()


class Cloud(Section):
    """`cloud.yaml`."""

    secrets: tuple[Literal["huggingface", "wandb", "webhook"], ...] = ()
    schedule: Schedule = Schedule()
    endpoint: Endpoint = Endpoint()
    gateway: GatewayContainer = GatewayContainer()
    ui: bool = False
    """Whether the page is deployed beside the gateway, for its keys."""


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
