"""Serving a model: on this machine, on Modal, and under which name."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuneline.cli.consoles import console, errors_console
from tuneline.cli.model_server import start_server
from tuneline.cli.options import ExistingRun, OnModal
from tuneline.cli.policy import change_policy
from tuneline.cli.question_prompt import read_questions
from tuneline.cli.run_folders import find_run
from tuneline.core import paths
from tuneline.core.environment import read_variable
from tuneline.core.terminal import echo

if TYPE_CHECKING:
    from tuneline.cli.chat import ChatSettings, Model

app = typer.Typer()
PANEL: Any = {"rich_help_panel": "Serving"}


@app.command(**PANEL)
def serve(
    run: ExistingRun,
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to bind to; any other than loopback requires TUNELINE_API_KEY.")
    ] = "127.0.0.1",
    kind: Annotated[str | None, typer.Option("--type", help="GGUF type. Default: the recipe's serve.type.")] = None,
) -> None:
    """Serve a run's model over the OpenAI API at http://HOST:PORT/v1."""
    from tuneline.cli.model_server import serve_run
    from tuneline.cli.views.serving import render_endpoint

    def announce(url: str) -> None:
        with_key = bool(read_variable("TUNELINE_API_KEY"))
        console.print(render_endpoint(run, url, with_key=with_key), soft_wrap=True)

    serve_run(find_run(run), kind, port, host, announce)


@app.command(**PANEL)
def chat(
    where: Annotated[
        str, typer.Argument(metavar="RUN|URL", help="A run, or any server of the OpenAI API.", show_default=False)
    ],
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="One question. Without it, a conversation starts.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to use, at a URL that serves several.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    style: Annotated[
        str | None, typer.Option(help="A style of the run, or one of `tuneline prompts ls`, as system message.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="Sampling temperature. Default: 0 with tools, else the server's.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens of an answer.")] = 1024,
    run: Annotated[
        str | None, typer.Option(help="At a URL: the run whose tools and styles the model was trained on.")
    ] = None,
    catalogue: Annotated[Path | None, typer.Option(help="At a URL: tools that the model is shown.")] = None,
    key_variable: Annotated[
        str | None, typer.Option(help="At a URL: environment variable with its key. Default: TUNELINE_API_KEY.")
    ] = None,
) -> None:
    """Chat with a model; tool calls are shown, not executed. /exit leaves, /help lists the commands."""
    from tuneline.cli.chat import ChatSettings, open_model, open_run_model
    from tuneline.core.errors import BadRequest

    settings = ChatSettings(system=system, style=style, temperature=temperature, max_tokens=max_tokens)
    if where.startswith(("http://", "https://")):
        learned = find_run(run) if run else None
        hold_chat(
            open_model(where, model, run=learned, catalogue=catalogue, key_variable=key_variable), settings, question
        )
        return
    if run or catalogue or key_variable or model:
        raise BadRequest(
            f"chat {where}: --model, --run, --catalogue and --key-variable are for a URL; a run has its own"
        )
    folder = find_run(where)
    with start_server(folder) as server:
        hold_chat(open_run_model(server.base_url, folder), settings, question)


def hold_chat(model: "Model", settings: "ChatSettings", question: str | None) -> None:
    """Ask one question, or hold a conversation if there is none."""
    from tuneline.cli.chat import COMMANDS, Conversation, hold_conversation

    conversation = Conversation(model, settings)
    if question is None:
        hold_conversation(conversation, read_questions([command.split()[0] for command in COMMANDS]))
    else:
        conversation.ask(question)


@app.command(**PANEL)
def promote(
    run: ExistingRun,
    name: Annotated[str, typer.Option("--as", help="Name under which the model is served.")],
    override: Annotated[str, typer.Option(help="Promote although the gate did not pass; the reason is recorded.")] = "",
    on_modal: OnModal = False,
) -> None:
    """Make a run live under a name; exit 3 if its gate did not pass."""
    from tuneline.cli.views.serving import describe_answers, format_version

    if not on_modal:
        refuse_unserved_form(run)
    from tuneline.core.machine import get_user_name

    version = json.loads(change_policy(on_modal, "promote", run, name, override, get_user_name()))
    console.print(f"{name} is now {format_version(version)}; undo with `tuneline rollback {name}`", soft_wrap=True)
    errors_console.print(describe_answers(name, on_modal=on_modal), soft_wrap=True)


def refuse_unserved_form(run: str) -> None:
    """Raise BadRequest if no engine of this machine serves what a run is promoted with."""
    from tuneline.configs.recipe import recipe_of
    from tuneline.core.errors import BadRequest
    from tuneline.engines.vllm.vllm_server import find_vllm

    form = recipe_of(find_run(run)).serve.form
    if form != "gguf" and not find_vllm():
        raise BadRequest(
            f"{run}: serve.form is {form}, which vLLM serves, and there is none on this machine: docs/vllm.md says how "
            f"to install it; `tuneline promote {run} --as NAME --modal` lets Modal's endpoint serve it; with `serve: "
            "{form: gguf}` in the recipe, `tuneline evaluate RECIPE` judges a file that the gateway here serves"
        )


@app.command(**PANEL)
def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Promoted name.")], on_modal: OnModal = False
) -> None:
    """Go back to the previous version under a name."""
    from tuneline.cli.views.serving import describe_answers, format_version
    from tuneline.core.machine import get_user_name

    version = json.loads(change_policy(on_modal, "rollback", name, get_user_name()))
    console.print(f"{name} is again {format_version(version)}", soft_wrap=True)
    errors_console.print(describe_answers(name, on_modal=on_modal), soft_wrap=True)


@app.command(**PANEL)
def deploy() -> None:
    """Deploy to Modal (`modal deploy app.py`) after checking secrets and the app's name."""
    from tuneline.volumes.remote import deploy

    sys.exit(deploy())


@app.command(**PANEL, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def rehearse(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- COMMAND", help="Modal command to run; without one, the simulation runs until Ctrl-C."
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--state", help="Folder for the rehearsal's Volumes and secrets.")] = Path(
        ".rehearsal"
    ),
    images: Annotated[
        list[str] | None,
        typer.Option("--build", help="Build this image on this machine and start it. May be repeated."),
    ] = None,
) -> None:
    """Run a modal command against an offline simulation of Modal on this machine."""
    if images:
        from tuneline.rehearsal.image_builds.command import build_and_start

        build_and_start(images, paths.cache() / "images", echo)
    elif words:
        from tuneline.rehearsal.command import run_rehearsed

        sys.exit(run_rehearsed(words, folder))
    else:
        from tuneline.rehearsal.command import keep_running

        keep_running(folder)
