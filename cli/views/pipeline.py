"""What stands before and after a pipeline run."""

from collections.abc import Mapping

from rich.panel import Panel
from rich.text import Text

from tuneline.core.spending import read_usd_per_hour


def render_stages_to_run(run: str, states: Mapping[str, str]) -> Text:
    """Return which stages will run in which run, where and at what price an hour, with the run in bold."""
    stages = " → ".join(f"{stage} ({state})" if state == "finished" else stage for stage, state in states.items())
    price = read_usd_per_hour()
    cost = "at no cost" if price is None else f"at {price:g} USD an hour"
    return Text.assemble("run ", (run, "bold"), f", on this machine, {cost}: {stages}")


def render_next_steps(run: str) -> Panel:
    """Return the commands to type after a run has finished."""
    lines = [
        f"tuneline chat {run}               talk to the model",
        f"tuneline serve {run}              an OpenAI-compatible endpoint at http://127.0.0.1:8080/v1",
        f"tuneline runs show {run} --json   every figure",
        "modal run app.py::train --recipe configs/recipes/demo.yaml",
    ]
    return Panel("\n".join(lines), title="next", expand=False)
