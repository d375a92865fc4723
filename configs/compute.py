"""`compute` in a recipe: each stage's hardware, its time limit, and the most that it can cost."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tuneline.configs.hardware import ModalGpu, hardware
from tuneline.configs.section import Section

SPARE_S = 60.0
"""Seconds between a stage's stop signal and the end of its call, in which training saves a checkpoint."""


class Container(Section):
    """The hardware of one stage on Modal, and its time limit."""

    gpu: ModalGpu | None = None
    """A kind and optionally a count, as in `H100:2`; None is a CPU."""
    cores: float = Field(2.0, gt=0, le=64)
    memory_gib: float = Field(8.0, gt=0, le=1024)
    hours: float = Field(1.0, gt=0, le=720)
    """The stage is stopped after this. Modal ends a call at 24 h: before that it saves a checkpoint, and a new call
    resumes."""
    retries: int = Field(2, ge=0, le=10)
    """How often, in all, a preempted or lost container is started again."""

    disk_gib: ClassVar[int] = 0
    """Disk requested beyond what every container has; on Modal it cannot be changed per call."""

    @property
    def usd_per_hour(self) -> float:
        """The price of one container."""
        return 3600 * hardware().usd_per_second(self.gpu, self.cores, self.memory_gib, self.disk_gib)

    @property
    def hours_at_most(self) -> float:
        """Most hours that can be billed: each attempt runs to its limit, and each call takes `SPARE_S` to stop."""
        calls = 1 + self.hours // (hardware().longest_call_hours - 1)
        return (self.hours + calls * SPARE_S / 3600) * (1 + self.retries)

    @property
    def usd_at_most(self) -> float:
        """Upper bound of the cost: `usd_per_hour` × `hours_at_most`."""
        return self.usd_per_hour * self.hours_at_most


class Conversion(Container):
    """The hardware of `convert`; its disk holds Llama 4 Scout, the largest base of our recipes, and its GGUF files."""

    disk_gib: ClassVar[int] = 700


PIPELINE_CONTAINER = Container(cores=0.5, memory_gib=1.0)
"""The container that runs the pipeline: it waits for the stages' containers."""


class Compute(Section):
    """The hardware of each stage; never part of a fingerprint."""

    fetch: Container = Container(hours=6)
    prepare: Container = Container(cores=4, memory_gib=16)
    train: Container = Container(gpu="H100", cores=8, memory_gib=64, hours=24, retries=3)
    convert: Conversion = Conversion(cores=8, memory_gib=32, hours=4)
    evaluate: Container = Container(gpu="A10", cores=4, memory_gib=32, hours=4)
    max_cost_usd: float | None = Field(None, gt=0)
    """A run that could cost more is refused; one that has cost this much saves a checkpoint and stops."""
    threads: int | None = Field(None, gt=0)
    """CPU threads; None takes the cores that the process may use. The same number gives the same bytes."""
    micro_batch_rows: int | None = Field(None, gt=0)
    """Rows per device and forward pass; None takes what fits."""
    processes: int | None = Field(None, gt=0)
    """Processes that train together; None is one per GPU."""
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    """ddp: each process has the whole model. fsdp2: each has a shard. auto: ddp if the model fits one GPU."""

    @model_validator(mode="before")
    @classmethod
    def _merge_defaults(cls, raw: Any) -> Any:
        """Keep a stage's other defaults if only some of its keys are stated: `train: {hours: 30}` stays an H100."""
        if not isinstance(raw, dict):
            return raw
        defaults = {name: field.default for name, field in cls.model_fields.items() if name in raw}
        return raw | {
            name: default.model_dump() | raw[name]
            for name, default in defaults.items()
            if isinstance(default, Container) and isinstance(raw[name], dict)
        }

    @property
    def preflight(self) -> Container:
        """Training's hardware, with a limit for the few steps of a preflight."""
        return self.train.model_copy(
            update={"hours": min(1.0, self.train.hours), "retries": min(1, self.train.retries)}
        )
