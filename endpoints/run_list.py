"""All runs of a folder, with the names that they serve: what `tuneline runs ls` and the page of runs show."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from tuneline.core import paths
from tuneline.core.errors import TunelineError
from tuneline.core.locks import find_holder
from tuneline.endpoints.promotion import read_promotions
from tuneline.stages.runs.summary import RunSummary, is_run, summarize_run


def list_runs(root: Path | None = None) -> list[RunSummary]:
    """Return the runs on this machine, the one that was last worked on first; `root` is the folder of all runs."""
    return summarize_runs(root or paths.runs(), lambda run: find_holder(run) is not None, read_served_names())


def summarize_runs(
    root: Path,
    is_running: Callable[[Path], bool],
    served_names: Mapping[str, Sequence[str]],
    where: Literal["here", "modal"] = "here",
) -> list[RunSummary]:
    """Return the runs in the folder `root`, the one that was last worked on first.

    `is_running` says of a run's folder whether a live process or call works on it; `served_names` are its names by run.
    """
    runs = [
        summarize_run(folder, is_running=is_running(folder), promoted_as=served_names.get(folder.name, ()), where=where)
        for folder in sorted(root.glob("[!.]*"))
        if is_run(folder)
    ]
    return sorted(runs, key=lambda run: run.at, reverse=True)


def read_served_names() -> dict[str, list[str]]:
    """Return run → the names that it serves now; what cannot be read of the policy is left out."""
    names: dict[str, list[str]] = {}
    with contextlib.suppress(TunelineError, OSError):
        for name, promotion in read_promotions().items():
            names.setdefault(promotion.current.run, []).append(name)
    return names
