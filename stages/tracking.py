"""Weights & Biases: one more reader of a run's events, if WANDB_API_KEY is set and wandb is installed."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PROJECT = "tuneline"


@contextmanager
def tracked(run: str, stage: str, settings: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that takes a stage's events and sends their metrics; does nothing where W&B is off.

    A stage that goes on after a checkpoint goes on in the same W&B run, because the run's id is made of its name.
    """
    if not (os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") == "offline"):
        yield lambda event: None
        return
    import wandb

    settings_ = wandb.Settings(silent=True, console="off")
    with wandb.init(
        project=PROJECT,
        id=f"{run}-{stage}",
        name=run,
        group=run,
        job_type=stage,
        resume="allow",
        config=settings,
        settings=settings_,
    ) as session:

        def track(event: dict[str, Any]) -> None:
            if event["kind"] == "metrics":
                numbers = {key: value for key, value in event.items() if isinstance(value, int | float)}
                step = numbers.pop("step", None)
                session.log({f"{stage}/{key}": value for key, value in numbers.items()} | {f"{stage}/step": step})
            elif event["kind"] == "warning":
                session.alert(title=f"{run}: {stage}", text=event["text"])

        yield track
