"""Stages of which files were removed to free space, and that are made again because a later stage needs them.

A file of its own: every container of a pipeline run imports it, and what removes files imports the conversion.
"""

from collections.abc import Sequence
from pathlib import Path

from tuneline.core import artifacts


def find_incomplete(run: Path, stages: Sequence[str]) -> list[str]:
    """Return those of `stages` that have to be made again: of which files were removed that the next stages need.

    The last one is asked for by name, so it is made whole; one before it is needed if a stage after it is to do.
    """
    to_do = [stage for stage in stages if not artifacts.is_finished(run / stage) and stage != "fetch"]
    last = max((stages.index(stage) for stage in to_do), default=-1)
    return [
        stage
        for number, stage in enumerate(stages)
        if artifacts.is_finished(run / stage)
        and artifacts.read_artifact(run / stage).manifest.removed
        and (number < last or number == len(stages) - 1)
    ]


def reopen_incomplete(run: Path, stages: Sequence[str]) -> None:
    """Turn the stages that `find_incomplete` returns into unfinished work; the caller holds the run."""
    for stage in find_incomplete(run, stages):
        artifacts.reopen(run / stage)
