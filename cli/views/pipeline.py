"""What stands before and after a pipeline run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.text import Text

from tuneline.core.modal_command import modal_command
from tuneline.core.spending import read_usd_per_hour

LONG_COMMAND = 40
"""Characters; what a longer command does is not aligned with the others."""


def render_stages_to_run(run: str, states: Mapping[str, str]) -> Text:
    """Return which stages will run in which run, where and at what price an hour, with the run in bold."""
    stages = " → ".join(f"{stage} ({state})" if state == "finished" else stage for stage, state in states.items())
    price = read_usd_per_hour()
    cost = "at no cost" if price is None else f"at {price:g} USD per hour"
    return Text.assemble("run ", (run, "bold"), f", on this machine, {cost}: {stages}")


def render_next_steps(run: str, recipe_file: Path, settings: Sequence[str] = (), *, passed: bool) -> Text:
    """Return the commands to type after a run has finished; one that passed the gate may be promoted.

    `settings` are those of `--set`, with which it was run.
    """
    commands = {
        f"tuneline chat {run}": "talk to the model",
        f"tuneline serve {run}": "the OpenAI API at http://127.0.0.1:8080/v1",
        f"tuneline runs show {run} --json": "every figure",
        **({f"tuneline promote {run} --as NAME": "make it live under a name"} if passed else {}),
        modal_command("train", recipe_file, run, settings): "train it on Modal",
    }
    width = max(len(command) for command in commands if len(command) < LONG_COMMAND)
    lines = [f"\n  {command.ljust(width)}  # {meaning}" for command, meaning in commands.items()]
    return Text.assemble(("next:", "bold"), *lines)
