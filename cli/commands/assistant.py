"""The assistant: a model with handlers that run what it picks."""

import asyncio
import shlex
from pathlib import Path
from typing import Annotated

import typer

from tuneline.cli.consoles import console, errors_console
from tuneline.cli.question_prompt import read_questions
from tuneline.core.terminal import echo

app = typer.Typer(
    help="Chat with a model and run the tools it calls; a call that changes something is confirmed first.",
    invoke_without_command=True,
)
mcp_app = typer.Typer()
Folder = Annotated[Path, typer.Option("--folder", help="Folder of conversations and traces.")]
FOLDER = Path(".assistant")


Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--handlers",
        help="Runs the calls: a Python module, an OpenAPI file or address, mcp:ADDRESS, mcp:COMMAND. May be repeated.",
    ),
]
Url = Annotated[str, typer.Option(help="URL of a server of the OpenAI API, or a provider's name.")]
ModelName = Annotated[str, typer.Option("--model", help="Model name at that server.")]
RunTools = Annotated[str | None, typer.Option("--run", help="Run whose tools the model was trained on.")]
CatalogueFile = Annotated[Path | None, typer.Option("--catalogue", help="Tool catalogue that the model is shown.")]
Unconfirmed = Annotated[list[str] | None, typer.Option(help="Tool that runs without confirmation. May be repeated.")]
Knowledge = Annotated[Path | None, typer.Option(help="Folder of documents that answers are taken from.")]
PicksOnly = Annotated[
    bool, typer.Option("--picks-only", help="The model was only trained to choose tools: their results are the answer.")
]
PromptName = Annotated[str | None, typer.Option("--prompt", help="System message, one of `tuneline prompts ls`.")]


@app.callback()
def assistant(
    context: typer.Context,
    handlers: Sources = None,
    question: Annotated[
        list[str] | None, typer.Option("--ask", help="A question; without it, a conversation. May be repeated.")
    ] = None,
    url: Url = "local",
    model: ModelName = "default",
    run: RunTools = None,
    catalogue: CatalogueFile = None,
    unconfirmed: Unconfirmed = None,
    conversation: Annotated[str | None, typer.Option(help="Id of a conversation to continue.")] = None,
    confirm: Annotated[str | None, typer.Option(help="Id of a waiting call to confirm.")] = None,
    knowledge: Knowledge = None,
    prompt: PromptName = None,
    style: Annotated[str | None, typer.Option(help="Style of the answers; `/style NAME` changes it.")] = None,
    picks_only: PicksOnly = False,
    summarise: Annotated[
        bool,
        typer.Option(
            "--summarise", help="Summarise the oldest turns when the context is full, instead of dropping them."
        ),
    ] = False,
    folder: Folder = FOLDER,
) -> None:
    """Answer questions by running what the model picks; what changes something is confirmed first."""
    if context.invoked_subcommand is not None:
        return
    from tuneline.cli.assistant import confirm_call, hold_conversation, make_setup

    setup = make_setup(
        handlers,
        url,
        model,
        folder,
        run,
        catalogue,
        unconfirmed,
        knowledge,
        prompt,
        style,
        picks_only,
        "summarise" if summarise else "drop",
    )
    if confirm:
        identity: str | None = asyncio.run(confirm_call(setup, confirm, _confirm))
    else:
        identity = asyncio.run(hold_conversation(setup, question or read_questions(), _confirm, conversation))
    if identity:
        option = "" if folder == FOLDER else f" --folder {shlex.quote(str(folder))}"
        errors_console.print(f"next: tuneline assistant trace {identity}{option}", soft_wrap=True)


@mcp_app.command(rich_help_panel="Serving")
def mcp(
    handlers: Sources = None,
    url: Url = "local",
    model: ModelName = "default",
    run: RunTools = None,
    catalogue: CatalogueFile = None,
    unconfirmed: Unconfirmed = None,
    knowledge: Knowledge = None,
    prompt: PromptName = None,
    picks_only: PicksOnly = False,
    port: Annotated[int | None, typer.Option(help="Serve at http://127.0.0.1:PORT/mcp instead of over stdio.")] = None,
    folder: Folder = FOLDER,
) -> None:
    """Serve the assistant over MCP: its handlers that need no confirmation, and a tool `ask`."""
    from tuneline.cli.assistant import make_setup, serve_mcp
    from tuneline.engines.server import refuse_port_in_use

    if port is not None:
        refuse_port_in_use("127.0.0.1", port)
    setup = make_setup(handlers, url, model, folder, run, catalogue, unconfirmed, knowledge, prompt, None, picks_only)
    asyncio.run(serve_mcp(setup, port))


@app.command()
def trace(
    conversation: Annotated[
        str, typer.Argument(metavar="CONVERSATION", help="Id of a conversation.", show_default=False)
    ],
    folder: Folder = FOLDER,
) -> None:
    """Show what happened in a conversation, step by step."""
    from tuneline.cli.views.assistant import render_trace
    from tuneline.endpoints.assistant.trace import read_trace

    console.print(render_trace(conversation, read_trace(folder, conversation)), soft_wrap=True)


@app.command()
def ls(folder: Folder = FOLDER) -> None:
    """List the conversations of this terminal, newest first."""
    from tuneline.cli.assistant import DATABASE, LOCAL_OWNER
    from tuneline.endpoints.assistant.store import Store

    for identity in Store(folder / DATABASE).conversations(LOCAL_OWNER):
        echo(identity)


@app.command()
def delete(
    conversation: Annotated[
        str, typer.Argument(metavar="CONVERSATION", help="Id of a conversation.", show_default=False)
    ],
    folder: Folder = FOLDER,
) -> None:
    """Delete a conversation, its messages and its trace."""
    from tuneline.cli.assistant import DATABASE, LOCAL_OWNER
    from tuneline.endpoints.assistant.store import Store
    from tuneline.endpoints.assistant.trace import delete_trace

    Store(folder / DATABASE).delete_conversation(LOCAL_OWNER, conversation)
    delete_trace(folder, conversation)
    echo(f"deleted: {conversation}")


def _confirm(call: str) -> bool:
    """Ask whether a call may run; only a typed yes is one."""
    try:
        # No markup: all of what will run is shown, whatever brackets its arguments have.
        return console.input(f"run   {call}? (y/N) ", markup=False).strip().lower() in ("y", "yes")
    except EOFError:
        return False
