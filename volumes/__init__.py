"""The Modal Volumes: one for each kind of writer, their mount paths, and who finds what where.

| Volume | Mounted at | Written by |
| --- | --- | --- |
| tuneline-models | /models | `fetch`: base weights, once |
| tuneline-runs | /runs | the stages of a run, one after the other |
| tuneline-data | /data | the entrypoints: a recipe's files, by hash, once |
| tuneline-policy | /policy | `promote`, `rollback`, `keys` |
| tuneline-scores | /scores | the scheduled evaluation |
| tuneline-cache | /cache | engines: compiled kernels; may be deleted at any time |
"""

import os
from pathlib import PurePosixPath

import modal

NAMES = ("models", "runs", "data", "policy", "scores", "cache")
VOLUMES = {name: modal.Volume.from_name(f"tuneline-{name}", create_if_missing=True) for name in NAMES}
MOUNTS = {name: f"/{name}" for name in NAMES}
ENVIRONMENT: dict[str, str | None] = {
    "TUNELINE_RUNS": MOUNTS["runs"],
    "TUNELINE_MODELS": MOUNTS["models"],
    "TUNELINE_POLICY": MOUNTS["policy"],
    "TUNELINE_SCORES": MOUNTS["scores"],
    "VLLM_CACHE_ROOT": MOUNTS["cache"] + "/vllm",
    "TUNELINE_CALL_HOURS": os.environ.get("TUNELINE_CALL_HOURS", "23"),
}
"""Tells the stages, which know nothing of Modal, where their folders are."""


def mounted(*names: str) -> dict[str | PurePosixPath, modal.Volume | modal.CloudBucketMount]:
    """Mount path → Volume, as a Function's `volumes` takes it."""
    return {MOUNTS[name]: VOLUMES[name] for name in names}
