"""`compute` in a recipe: the hardware of each stage, how long it may take, and what that costs at most."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tuneline.configs.hardware import ModalGpu, hardware
from tuneline.configs.section import Section

SPARE_S = 60.0
"""Between a stage being told to stop and its call being killed: training saves a checkpoint in it."""


class Container(Section):
    """The hardware of one stage on Modal, and how long it may take."""

    gpu: ModalGpu | None = None
    """A kind and a count, as in `H100:2`; None runs on CPU."""
    cores: float = Field(2.0, gt=0, le=64)
    memory_gib: float = Field(8.0, gt=0, le=1024)
    hours: float = Field(1.0, gt=0, le=720)
    """The stage is stopped after this. A call ends at 24 h: before that it checkpoints, and a successor goes on."""
    retries: int = Field(2, ge=0, le=10)
    """How often a preempted or lost container is started again, in all."""

    disk_gib: ClassVar[int] = 0
    """Asked for beyond what every container has; Modal lets nobody change it per call."""

    @property
    def usd_per_hour(self) -> float:
        return 3600 * hardware().usd_per_second(self.gpu, self.cores, self.memory_gib, self.disk_gib)

    @property
    def hours_at_most(self) -> float:
        """With all retries: each may run to its end, and each of its calls take `SPARE_S` to save what it has."""
        calls = 1 + self.hours // (hardware().longest_call_hours - 1)
        return (self.hours + calls * SPARE_S / 3600) * (1 + self.retries)

    @property
    def usd_at_most(self) -> float:
        """Price × hours, retries and all."""
        return self.usd_per_hour * self.hours_at_most


class Conversion(Container):
    """Convert's: its disk holds Llama 4 Scout, the largest base of our recipes, and its GGUF files."""

    disk_gib: ClassVar[int] = 700


PIPELINE_CONTAINER = Container(cores=0.5, memory_gib=1.0)
"""What waits for the stages' containers, as long as they take."""


class Compute(Section):
    """Where it runs; never part of a fingerprint."""

    fetch: Container = Container(hours=6)
    prepare: Container = Container(cores=4, memory_gib=16)
    train: Container = Container(gpu="H100", cores=8, memory_gib=64, hours=24, retries=3)
    convert: Conversion = Conversion(cores=8, memory_gib=32, hours=4)
    evaluate: Container = Container(gpu="A10", cores=4, memory_gib=32, hours=4)
    max_cost_usd: float | None = Field(None, gt=0)
    """A run that could cost more is refused before anything starts; one that has cost so much checkpoints and stops."""
    threads: int | None = Field(None, gt=0)
    """CPU threads; None takes the cores this process may use. The same number gives the same bytes."""
    micro_batch_rows: int | None = Field(None, gt=0)
    """Rows at a time on one device; None takes what fits."""
    processes: int | None = Field(None, gt=0)
    """Processes that train together; None is one a GPU."""
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    """How they share: ddp, a model each; fsdp2, a shard each. auto takes ddp where the model fits one GPU."""

    @model_validator(mode="before")
    @classmethod
    def _keeps_what_is_not_stated(cls, given: Any) -> Any:
        """A stage's defaults stand where only some of its keys are given: more hours for an H100 stay an H100's."""
        if not isinstance(given, dict):
            return given
        defaults = {name: field.default for name, field in cls.model_fields.items() if name in given}
        return given | {
            name: default.model_dump() | given[name]
            for name, default in defaults.items()
            if isinstance(default, Container) and isinstance(given[name], dict)
        }

    @property
    def preflight(self) -> Container:
        """Training's own hardware, for as long as a few steps take."""
        return self.train.model_copy(
            update={"hours": min(1.0, self.train.hours), "retries": min(1, self.train.retries)}
        )
