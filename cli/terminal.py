"""What a person sees in a terminal: plan, live progress, tables. `cli/` uses it."""

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tuneline.core.artifacts import Artifact
    from tuneline.endpoints.tool_selection import Narrowing
    from tuneline.engines.providers import Answer
    from tuneline.stages.evaluate.verdicts.comparison import Comparison

ANSWER_TOKENS = 256


def plan_table(run: str, states: dict[str, str]) -> RenderableType:
    """What will be done in which run."""
    from tuneline.core.spending import usd_per_hour

    stages = " → ".join(f"{stage} ({state})" if state == "finished" else stage for stage, state in states.items())
    price = usd_per_hour()
    cost = "at no cost" if price is None else f"at {price:g} USD an hour"
    return f"run [bold]{run}[/bold], on this machine, {cost}: {stages}"


def stage_states(folder: Path) -> dict[str, str]:
    """`finished`, `begun` or `open` for each stage of a run."""
    from tuneline.core import artifacts
    from tuneline.stages.line import ORDER

    return {
        stage: "finished"
        if artifacts.finished(folder / stage)
        else "begun"
        if (folder / stage / artifacts.DRAFT).exists()
        else "open"
        for stage in ORDER[1:]
    }


def event_line(event: dict[str, Any]) -> str:
    """One event as a plain line."""
    told = {key: value for key, value in event.items() if key not in ("time", "stage", "kind")}
    fields = " ".join(
        f"{key}={value:.5g}" if isinstance(value, float) else f"{key}={value}" for key, value in told.items()
    )
    return f"{event['time'][:19]} {event['stage']:<9} {event['kind']:<10} {fields}"


def runs_table(runs: list[tuple[str, dict[str, str]]]) -> Table:
    """One line a run."""
    table = Table("run", *runs[0][1], box=None)
    for name, states in runs:
        table.add_row(name, *states.values())
    return table


def run_details(folder: Path, done: "dict[str, Artifact]") -> RenderableType:
    """A run's stages with time and fingerprint, and its scoreboard if it has one."""
    table = Table("stage", "seconds", "fingerprint", "made", box=None)
    for stage, artifact in done.items():
        manifest = artifact.manifest
        table.add_row(stage, f"{manifest.seconds:.0f}", manifest.fingerprint, f"{manifest.ended:%Y-%m-%d %H:%M}")
    board = (
        [scoreboard(done["evaluate"].metrics, done["convert"].metrics)]
        if {"evaluate", "convert"} <= done.keys()
        else []
    )
    return Group(f"[bold]{folder.name}[/bold]  {folder}", table, *board)


def scoreboard(evaluated: dict[str, Any], converted: dict[str, Any]) -> Table:
    """Base, tuned and quantized on every suite, with intervals and sample sizes."""
    percent = f"{evaluated['confidence']:.0%}"
    table = Table(
        "suite", "model", f"right tool ({percent} interval)", "and exact arguments", "n", "size", title="Scoreboard"
    )
    for row in evaluated["scoreboard"]:
        file = converted["files"].get("base-F16" if row["target"] == "base" else row["target"])
        table.add_row(
            row["suite"],
            row["target"],
            _share(row["name_accuracy"], row["name_low"], row["name_high"]),
            _share(row["exact_accuracy"], row["exact_low"], row["exact_high"]),
            str(row["n"]),
            f"{file['bytes'] / 1e6:.1f} MB" if file else "elsewhere",
        )
    for row in evaluated["classifier"]:
        shown = _share(row["accuracy"], row["low"], row["high"])
        table.add_row(row["suite"], "TF-IDF + logistic regression", shown, "–", str(row["n"]), "–", style="dim")
    return table


def comparison_table(found: "Comparison") -> Table:
    """B against A, a line a task, with the difference drawn on a line around 0."""
    tasks, percent = found.verdicts.tasks, f"{found.verdicts.confidence:.0%}"
    reach = max((max(abs(task.low), abs(task.high)) for task in tasks), default=1.0) or 1.0
    table = Table(title=f"B = {found.verdicts.b} against A = {found.verdicts.a}")
    for column in ("task", "n", "A", "B", f"difference ({percent} interval)", f"±{100 * reach:.0f} points", "verdict"):
        table.add_column(column, overflow="fold")
    colours = {"better": "green", "worse": "red"}
    for task in tasks:
        difference = f"{100 * task.difference:+.1f} ({100 * task.low:+.1f} to {100 * task.high:+.1f})"
        drawn = _drawn(task.low / reach, task.difference / reach, task.high / reach)
        verdict = Text(task.told, style=colours.get(task.verdict, ""))
        table.add_row(task.task, str(task.n), f"{task.a:.1%}", f"{task.b:.1%}", difference, drawn, verdict)
    return table


def _drawn(low: float, value: float, high: float) -> str:
    """An interval between -1 and 1 in characters; `|` is 0."""
    half = 10
    at = [round(half * (1 + x)) for x in (low, value, high)]
    cells = ["·"] * (2 * half + 1)
    cells[at[0] : at[2] + 1] = ["─"] * (at[2] - at[0] + 1)
    cells[half] = "|"
    cells[at[1]] = "●"
    return "".join(cells)


def closing_panel(run: str) -> Panel:
    """What to type next."""
    lines = [
        f"tuneline chat {run}               talk to the model",
        f"tuneline serve {run}              an OpenAI-compatible endpoint at http://127.0.0.1:8080/v1",
        f"tuneline runs show {run} --json   every figure",
        "modal run app.py::train --recipe configs/recipes/demo.yaml",
    ]
    return Panel("\n".join(lines), title="next", expand=False)


def serving_panel(run: str, url: str, *, with_key: bool) -> RenderableType:
    """Where a served model answers, and two ways to ask it."""
    key = ' -H "Authorization: Bearer $TUNELINE_API_KEY"' if with_key else ""
    body = json.dumps({"model": run, "messages": [{"role": "user", "content": "hello"}]})
    return Text(
        f"{run} answers at {url}; Ctrl-C stops it. To ask it:\n  tuneline chat {url}\n"
        f"  curl {url}/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"
    )


def _share(share: float, low: float, high: float) -> str:
    return f"{100 * share:5.1f} %  ({100 * low:.1f}–{100 * high:.1f})"


def talk(
    console: Console,
    url: str,
    model: str,
    tools: list[dict[str, Any]] | None,
    questions: Iterable[str],
    narrowing: "Narrowing | None" = None,
) -> None:
    """One conversation through the openai client; each answer is shown as it comes."""
    messages: list[dict[str, Any]] = []
    for question in questions:
        messages.append({"role": "user", "content": question})
        # A loop of its own for each answer: while one runs, Ctrl-C would not end the wait for the next question.
        shown = narrowing.tools(messages, tools) if narrowing and tools else tools
        answer = asyncio.run(_answered(console, url, model, shown, messages))
        if answer.tool_calls:
            messages.clear()  # nobody made the call, so there is no result to go on from
        else:
            messages.append({"role": "assistant", "content": answer.text})


async def _answered(
    console: Console, url: str, model: str, tools: list[dict[str, Any]] | None, messages: list[dict[str, Any]]
) -> "Answer":
    from tuneline.engines.providers import Answer, provider

    begun = False
    async with provider(url).connect(model, key=os.environ.get("TUNELINE_API_KEY")) as chat:
        async for piece in chat.stream(messages, tools, temperature=0, max_tokens=ANSWER_TOKENS):
            if isinstance(piece, Answer):
                if begun:
                    _out(console, "\n")
                for call in piece.tool_calls:
                    _out(console, f"model {call.name}({json.dumps(call.arguments, ensure_ascii=False)})\n")
                return piece
            if piece.text:
                _out(console, piece.text if begun else f"model {piece.text}")
                begun = True
    raise AssertionError("a stream ends with the whole answer")


def _out(console: Console, text: str) -> None:
    """Text that others wrote: no markup in it counts."""
    console.print(text, end="", markup=False, highlight=False, emoji=False, soft_wrap=True)
