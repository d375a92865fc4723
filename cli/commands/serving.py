"""Serving a model: on this machine, on Modal, and under which name."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from tuneline.cli.consoles import console
from tuneline.cli.model_server import start_server
from tuneline.cli.options import ExistingRun, OnModal
from tuneline.cli.policy import change_policy
from tuneline.cli.run_folders import find_run

app = typer.Typer()
PANEL: Any = {"rich_help_panel": "Serving"}


@app.command(**PANEL)
def serve(
    run: ExistingRun,
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    host: Annotated[str, typer.Option(help="Address; anything but loopback needs TUNELINE_API_KEY.")] = "127.0.0.1",
    kind: Annotated[
        str | None, typer.Option("--type", help="GGUF type; the recipe's serve.type, if not given.")
    ] = None,
) -> None:
    """Serve a run's model: the OpenAI API at http://HOST:PORT/v1, until Ctrl-C."""
    from tuneline.cli.views.serving import render_endpoint
    from tuneline.core.errors import StageFailed
    from tuneline.endpoints.tool_selection import load_tool_selector

    folder = find_run(run)
    with start_server(folder, kind, port, host) as server:
        if selector := load_tool_selector(folder):
            console.print(
                f"{run} learned to be shown the {selector.limit} tools nearest to a request; `tuneline chat` and, "
                "once promoted, the endpoint choose them; here it is shown what a request brings.",
                soft_wrap=True,
            )
        with_key = bool(os.environ.get("TUNELINE_API_KEY"))
        console.print(render_endpoint(run, server.base_url, with_key=with_key), soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):
            code = server.process.wait()
            raise StageFailed(f"llama-server ended with {code}; see {folder / 'logs' / 'serve.log'}")


@app.command(**PANEL)
def chat(
    where: Annotated[str, typer.Argument(metavar="RUN|URL", help="A run, or a server that is up.", show_default=False)],
    question: Annotated[str | None, typer.Argument(help="Asked once; without it, a conversation.")] = None,
) -> None:
    """Talk to a run's model, with the run's tools; its calls are shown, not made."""
    from tuneline.cli.chat import chat_with_server

    questions = _read_questions() if question is None else [question]
    if where.startswith(("http://", "https://")):
        chat_with_server(where, None, questions)
        return
    folder = find_run(where)
    with start_server(folder) as server:
        chat_with_server(server.base_url, folder, questions)


@app.command(**PANEL)
def promote(
    run: ExistingRun,
    name: Annotated[str, typer.Option("--as", help="The name it serves.")],
    override: Annotated[str, typer.Option(help="Why it may serve without the gate's pass; recorded.")] = "",
    on_modal: OnModal = False,
) -> None:
    """Let a run that passed its gate serve a name; exit 3 if it did not pass."""
    from tuneline.cli.views.serving import format_version

    version = json.loads(change_policy(on_modal, "promote", run, name, override, _get_user_name()))
    console.print(
        f"{name} is served by {format_version(version)}; `tuneline rollback {name}` undoes it", soft_wrap=True
    )


@app.command(**PANEL)
def rollback(name: Annotated[str, typer.Argument(help="A promoted name.")], on_modal: OnModal = False) -> None:
    """Serve what served a name before."""
    from tuneline.cli.views.serving import format_version

    version = json.loads(change_policy(on_modal, "rollback", name, _get_user_name()))
    console.print(f"{name} is served again by {format_version(version)}", soft_wrap=True)


@app.command(**PANEL)
def deploy() -> None:
    """`modal deploy app.py`, once its secrets are there and the name is free or ours."""
    from tuneline.volumes.remote import deploy

    sys.exit(deploy())


@app.command(**PANEL, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def rehearse(
    words: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND…", help="A modal command.")] = None,
    folder: Annotated[Path, typer.Option("--state", help="Volumes and secrets of the rehearsal.")] = Path(".rehearsal"),
) -> None:
    """Run a modal command with Modal played on this machine; without one, keep it up until Ctrl-C."""
    from tuneline.rehearsal.command import keep_running, run_rehearsed

    if words:
        sys.exit(run_rehearsed(words, folder))
    keep_running(folder)


def _get_user_name() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def _read_questions() -> Iterator[str]:
    """Yield what is typed, a line at a time, until Ctrl-D or Ctrl-C."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            if question := console.input("you   ").strip():
                yield question
