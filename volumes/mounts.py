"""The Modal Volumes: one for each kind of writer, their mount paths, and the reload and commit around each use.

| Volume | Mounted at | Written by |
| --- | --- | --- |
| tuneline-models | /models | `fetch`: base weights, once |
| tuneline-runs | /runs | the stages of a run, one after the other; `runs rm`, in their place |
| tuneline-data | /data | the entrypoints: a recipe's files, by hash, once |
| tuneline-policy | /policy | `promote`, `rollback`, `keys`, `traffic` |
| tuneline-logs | /logs | the gateway: its request log, a file for each container and day; engines, page: their ledger |
| tuneline-scores | /scores | the scheduled evaluation |
| tuneline-ui | /ui | the page: conversations and votes |
| tuneline-cache | /cache | engines: compiled kernels; may be deleted at any time |
"""

import contextlib
from collections.abc import Iterator
from pathlib import PurePosixPath

import modal

from tuneline.core.artifacts import COMMIT_VARIABLE, read_commit
from tuneline.core.disk_space import PLACEHOLDERS
from tuneline.core.environment import read_variable
from tuneline.core.errors import StageFailed

NAMES = ("models", "runs", "data", "policy", "logs", "scores", "ui", "cache")
VOLUMES = {name: modal.Volume.from_name(f"tuneline-{name}", create_if_missing=True) for name in NAMES}
MOUNTS = {name: f"/{name}" for name in NAMES}
ENVIRONMENT: dict[str, str | None] = {
    "TUNELINE_RUNS": MOUNTS["runs"],
    "TUNELINE_MODELS": MOUNTS["models"],
    "TUNELINE_POLICY": MOUNTS["policy"],
    "TUNELINE_LOGS": MOUNTS["logs"],
    "TUNELINE_SCORES": MOUNTS["scores"],
    "TUNELINE_UI": MOUNTS["ui"],
    "TUNELINE_SCRATCH": "/tmp/tuneline",
    "VLLM_CACHE_ROOT": MOUNTS["cache"] + "/vllm",
    PLACEHOLDERS: ":".join(MOUNTS.values()),
    "TUNELINE_CALL_HOURS": read_variable("TUNELINE_CALL_HOURS", "23"),
    COMMIT_VARIABLE: read_commit(),
}
"""Tells the stages, which know nothing of Modal, where their folders are."""


def mounted(*names: str) -> dict[str | PurePosixPath, modal.Volume | modal.CloudBucketMount]:
    """Return mount path → Volume for the named Volumes, as a Function's `volumes` takes it."""
    return {MOUNTS[name]: VOLUMES[name] for name in names}


@contextlib.contextmanager
def synchronized(reads: tuple[str, ...], writes: tuple[str, ...]) -> Iterator[None]:
    """Reload the named Volumes first; commit those in `writes` when the block ends, also after an exception.

    Raises:
        StageFailed: a Volume is full.
    """
    for name in (*reads, *writes):
        VOLUMES[name].reload()
    with committed(*writes):
        yield


@contextlib.contextmanager
def committed(*names: str) -> Iterator[None]:
    """Commit the named Volumes when the block ends, also after an exception.

    Raises:
        StageFailed: a Volume is full.
    """
    try:
        yield
    finally:
        for name in names:
            commit(name)


def commit(name: str) -> None:
    """Publish what this container has written to a Volume.

    Raises:
        StageFailed: the Volume is full.
    """
    try:
        VOLUMES[name].commit()
    except modal.exception.Error as error:
        raise StageFailed(
            f"Volume tuneline-{name} is full: {error}; free some space (`modal volume rm -r tuneline-{name} …`) "
            "and run "
            "the same command again"
        ) from None
