"""The task of the conversion process, passed to it as JSON."""

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

MERGED = "merged"
"""Name of the merged 16-bit checkpoint: its folder, and what quantized checkpoints are compared with."""

ReportProgress = Callable[..., None]
"""Called with the keywords `done`, `total`, `text` and, unless they are bytes, `unit`."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GgufOutput(_Settings):
    """A GGUF file to write."""

    path: Path
    kind: str
    """Its file type, such as F16 or Q4_K_M."""
    name: str
    """The model's name inside the file."""
    tuned: bool = True
    """Whether it is the tuned model or the base."""


class CheckpointSettings(_Settings):
    """Quantized checkpoints to make of the merged one."""

    prepared: Path
    kinds: tuple[str, ...]
    tokens: int
    """Tokens of the run's training text to calibrate on."""


class ImatrixSettings(_Settings):
    """An importance matrix to measure."""

    prepared: Path
    place: Path
    tokens: int
    """Tokens of the run's training text to measure on."""


class VerifySettings(_Settings):
    """How the files are verified."""

    prepared: Path
    report: Path
    tokens: int
    """Tokens of the run's text on which quantizations are compared with 16 bit."""
    floor: float
    """The lowest top-1 agreement a quantization may have."""


class Task(_Settings):
    """What to make of a base, and of an adapter if there is one."""

    base: Path
    scratch: Path
    """Unfinished files."""
    durable: Path | None = None
    """A folder on the disk of the finished files, if `scratch` is on another, which may be lost with the machine."""
    outputs: tuple[GgufOutput, ...] = ()
    adapter: Path | None = None
    template: Path | None = None
    """The tuned model's chat template, if it has one of its own."""
    merged: Path | None = None
    """The folder of the merged checkpoint, if one is to be made."""
    threads: int = 1
    folders: CheckpointSettings | None = None
    imatrix: ImatrixSettings | None = None
    verify: VerifySettings | None = None

    @property
    def records(self) -> Path:
        """The folder of what is remembered between calls: which files are finished, and the log."""
        return self.durable or self.scratch

    @property
    def quantized_checkpoints(self) -> dict[str, Path]:
        """The folders of quantized checkpoints by kind, in the order of the recipe."""
        if not self.folders or not self.verify:
            return {}
        return {kind: self.verify.report.parent / f"tuned-{kind}" for kind in self.folders.kinds}
