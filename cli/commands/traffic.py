"""How much traffic a candidate has, and its moves by hand."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuneline.cli.consoles import console
from tuneline.cli.options import OnModal
from tuneline.cli.policy import change_policy

if TYPE_CHECKING:
    from tuneline.endpoints.traffic.records import Move
    from tuneline.endpoints.traffic.rollouts import Rollouts

app = typer.Typer(
    help="Traffic split between baseline and candidate: show, advance, hold, go back.", no_args_is_help=True
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model name in gateway.yaml.", show_default=False)]
Task = Annotated[str, typer.Option(help="Task of the model.")]
Settings = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        help="Gateway settings. Default: configs/gateway.yaml; on Modal, the deployed file.",
        show_default=False,
    ),
]
Why = Annotated[str, typer.Option(help="Reason, which is recorded.")]


@app.command()
def ls(settings: Settings = None, on_modal: OnModal = False) -> None:
    """Show step, requests, verdict and missing evidence per model and task."""
    from pydantic import TypeAdapter

    from tuneline.cli.views.traffic import render_rollouts
    from tuneline.endpoints.traffic.rollouts import Rollout

    if on_modal:
        rollouts = TypeAdapter(list[Rollout]).validate_json(_on_modal(settings, "ls"))
    else:
        rollouts = _open(settings).look()
    if not rollouts:
        console.print("no model in gateway.yaml has a candidate", soft_wrap=True)
        return
    console.print(render_rollouts(rollouts))


@app.command()
def tasks(settings: Settings = None) -> None:
    """Show how well tasks are recognised in requests that name none (`recognition` in gateway.yaml)."""
    from tuneline.cli.views.traffic import render_recognition
    from tuneline.configs.gateway import FILE, read_gateway
    from tuneline.endpoints.gateway.task_classifier import TaskClassifier

    recognition = read_gateway(settings or FILE).recognition
    if not recognition.tasks:
        console.print("recognition of gateway.yaml names no files and no tools: requests without a task are `other`")
        return
    console.print(render_recognition(TaskClassifier(recognition).measure()))


@app.command()
def advance(
    model: Model,
    task: Task = "other",
    override: Annotated[str, typer.Option(help="Advance without sufficient evidence; the reason is recorded.")] = "",
    settings: Settings = None,
    on_modal: OnModal = False,
) -> None:
    """Move one step up if the evidence allows it; exit 3 otherwise."""
    from tuneline.endpoints.traffic import rollouts as moves

    if on_modal:
        made = _read_move(_on_modal(settings, "advance", model, task, _user(), override))
    else:
        made = moves.advance(_open(settings), model, task, _user(), override)
    _print(model, task, made)


@app.command()
def hold(
    model: Model, task: Task = "other", why: Why = "", settings: Settings = None, on_modal: OnModal = False
) -> None:
    """Hold the current step until it is changed by hand."""
    from tuneline.endpoints.traffic import rollouts as moves

    if on_modal:
        made = _read_move(_on_modal(settings, "hold", model, task, _user(), why))
    else:
        made = moves.hold(_open(settings), model, task, _user(), why)
    _print(model, task, made)


@app.command()
def back(
    model: Model,
    task: Task = "other",
    why: Why = "",
    one_step: Annotated[
        bool, typer.Option("--one-step", help="One step down instead of all the way to the baseline.")
    ] = False,
    settings: Settings = None,
    on_modal: OnModal = False,
) -> None:
    """Send all traffic to the baseline at once, until it is changed by hand."""
    from tuneline.endpoints.traffic import rollouts as moves

    if on_modal:
        made = _read_move(_on_modal(settings, "back", model, task, _user(), why, "yes" if one_step else ""))
    else:
        made = moves.back(_open(settings), model, task, _user(), why, one_step=one_step)
    _print(model, task, made)


def _open(settings: Path | None) -> "Rollouts":
    from tuneline.configs.gateway import FILE, read_gateway
    from tuneline.core import paths
    from tuneline.endpoints.traffic.rollouts import Rollouts

    read = read_gateway(settings or FILE)
    return Rollouts(lambda: read, paths.logs())


def _on_modal(settings: Path | None, verb: str, *arguments: str) -> str:
    """Return what a verb says in the deployed app, whose settings count there."""
    from tuneline.core.errors import BadRequest

    if settings:
        raise BadRequest(f"--settings {settings}: on Modal the deployed configs/gateway.yaml counts; `tuneline deploy`")
    return change_policy(True, f"traffic {verb}", *arguments)


def _read_move(text: str) -> "Move":
    from tuneline.endpoints.traffic.records import Move

    return Move.model_validate_json(text)


def _print(model: str, task: str, made: "Move") -> None:
    held = ", held" if made.held else ""
    console.print(f"{model}, {task}: at {made.step}{held} (move {made.number}: {made.why})", soft_wrap=True)


def _user() -> str:
    from tuneline.core.machine import get_user_name

    return get_user_name()
