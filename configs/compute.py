"""`compute` in a recipe: each stage's hardware, its time limit, and the most that it can cost."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tuneline.configs.hardware import ModalGpu, hardware
from tuneline.configs.section import Section

STOP_S = 60.0
"""Seconds between the stop signal and the end of a call in any stage: its process ends, and its files are committed.
Training needs more: the step it is in, the validation and the checkpoint (stages/plan/stop_time.py)."""
LONGEST_STOP_S = 3600.0
"""Most of these seconds: a call works for 23 of its 24 hours."""
WAIT_HOURS = 4.0
"""Hours in all that a pipeline run waits for containers to start; after that it gives up, as waiting is billed too."""


class Container(Section):
    """The hardware of one stage on Modal, and its time limit."""

    gpu: ModalGpu | None = None
    """A kind and optionally a count, as in `H100:2`; None is a CPU."""
    cores: float = Field(2.0, gt=0, le=64)
    memory_gib: float = Field(8.0, gt=0, le=1024)
    hours: float = Field(1.0, gt=0, le=720)
    """Most hours of the stage in a run, over all its calls, preemptions, retries and commands; then it is stopped, with
    a checkpoint if it is training. Modal ends a call at 24 h: before that another goes on from a checkpoint."""
    retries: int = Field(2, ge=0, le=10)
    """How often a call is started again that failed or took too long. Preempted ones are started again without end, and
    get no more hours by it."""

    disk_gib: ClassVar[int] = 0
    """Disk requested beyond what every container has; on Modal it cannot be changed per call."""

    @property
    def usd_per_hour(self) -> float:
        """The price of one container."""
        return 3600 * hardware().usd_per_second(self.gpu, self.cores, self.memory_gib, self.disk_gib)

    def hours_at_most(self, used: float = 0.0, stop_s: float = STOP_S) -> float:
        """Return the most hours that can still be billed after `used` hours: the rest of `hours`, and once to stop."""
        return self.hours - used + stop_s / 3600 if self.hours > used else 0.0

    def usd_at_most(self, used: float = 0.0, stop_s: float = STOP_S) -> float:
        """Return the upper bound of the cost: `usd_per_hour` × `hours_at_most`."""
        return self.usd_per_hour * self.hours_at_most(used, stop_s)


class Conversion(Container):
    """The hardware of `convert`; its disk holds Llama 4 Scout, the largest base of our recipes, and its GGUF files."""

    disk_gib: ClassVar[int] = 700


PIPELINE_CONTAINER = Container(cores=0.5, memory_gib=1.0)
"""The container that runs the pipeline: it waits for the stages' containers."""


TINY: dict[str, dict[str, Any]] = {
    "prepare": {"cores": 2, "memory_gib": 4},
    "train": {"gpu": None, "cores": 4, "memory_gib": 8, "hours": 4},
    "convert": {"cores": 2, "memory_gib": 4, "hours": 1},
    "evaluate": {"cores": 2, "memory_gib": 4},
}
"""What differs from the defaults with the base `tiny`: 5 M parameters train on a CPU in minutes."""
VLLM: dict[str, dict[str, Any]] = {"evaluate": {"gpu": "A10"}}
"""The same where vLLM answers, which requires a GPU."""


def fill_in_hardware(stated: dict[str, Any], base: object, form: object) -> dict[str, Any]:
    """Return the `compute` section that a recipe states, with the hardware for its base and `serve.form` filled in."""
    filled = dict(stated)
    for defaults in (TINY if base == "tiny" else {}, VLLM if form in ("adapter", "merged") else {}):
        for stage, settings in defaults.items():
            if isinstance(filled.setdefault(stage, {}), dict):
                filled[stage] = settings | filled[stage]
    return filled


class Compute(Section):
    """The hardware of each stage; never part of a fingerprint."""

    fetch: Container = Container(hours=6)
    prepare: Container = Container(cores=4, memory_gib=16)
    train: Container = Container(gpu="H100", cores=4, memory_gib=32, hours=24, retries=3)
    """Base `tiny`: no GPU, 4 cores and 8 GiB. A process for each GPU keeps one core busy, and weights go to the GPU as
    they are read: 8 cores and 64 GiB were 18 % of the bill, half of them idle."""
    convert: Conversion = Conversion(cores=8, memory_gib=32, hours=4)
    evaluate: Container = Container(cores=4, memory_gib=32, hours=4)
    """`serve.form` adapter and merged: an A10, for vLLM. GGUF is asked through llama.cpp, on CPU cores."""
    max_cost_usd: float | None = Field(None, gt=0)
    """A run that could cost more is refused, and it is stopped, with a checkpoint, before it has cost more."""
    threads: int | None = Field(None, gt=0)
    """CPU threads; None takes the cores that the process may use. The same number gives the same bytes."""
    micro_batch_rows: int | None = Field(None, gt=0)
    """Rows per device and forward pass; None takes what fits."""
    save_minutes: float | None = Field(20.0, gt=0)
    """Training saves a checkpoint when the last one is so old, beside those of `train.save_steps`: work that a
    preemption destroys is bounded by it. None is by steps alone."""
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
