"""A training job, and the file by which the launcher gives it to its worker processes."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import Recipe
from tuneline.core.files import write_atomic


@dataclass(frozen=True)
class TrainingJob:
    """What to train, from what, and where to write it."""

    recipe: Recipe
    base: Path
    """Folder of the base model."""
    prepared: Path
    """Folder that `prepare` made."""
    folder: Path
    """Where the adapter and, while training, its checkpoints are written."""
    run: Path
    """The run folder, whose events the training adds to."""
    start: Path | None = None
    """An adapter to continue from."""
    called_at: float = field(default_factory=time.time)
    """When the training was called, in seconds of the clock."""


@dataclass(frozen=True)
class WorkerJob:
    """A job as a worker process reads it."""

    training: TrainingJob
    strategy: str
    """`ddp` or `fsdp2`."""
    outcome: Path
    """File for the metrics, or the error, of the workers."""


def write_job(file: Path, job: TrainingJob, outcome: Path) -> None:
    """Write `job` for the workers, which leave their result in `outcome`."""
    paths = {"base": job.base, "prepared": job.prepared, "folder": job.folder, "run": job.run, "start": job.start}
    record: dict[str, Any] = {name: str(path) if path else None for name, path in paths.items()}
    record |= {"strategy": job.recipe.compute.strategy, "called_at": job.called_at}
    record |= {"recipe": job.recipe.model_dump_json(), "outcome": str(outcome)}
    write_atomic(file, json.dumps(record))


def read_job(file: Path) -> WorkerJob:
    """Return the job that `write_job` wrote."""
    record = json.loads(file.read_text(encoding="utf-8"))
    training = TrainingJob(
        recipe=Recipe.model_validate_json(record["recipe"]),
        base=Path(record["base"]),
        prepared=Path(record["prepared"]),
        folder=Path(record["folder"]),
        run=Path(record["run"]),
        start=Path(record["start"]) if record["start"] else None,
        called_at=record["called_at"],
    )
    return WorkerJob(training, record["strategy"], Path(record["outcome"]))
