"""The `tuneline` command: `commands/` has its subcommands, `views/` their output.

Nothing heavy is imported before it is needed: `--help` costs typer and rich alone.
"""

import contextlib
import os
import signal
import sys
from typing import Annotated, Any, cast

import typer
from rich.text import Text
from typer.exceptions import TyperException

from tuneline.cli.commands import (
    assistant,
    costs,
    evidence,
    exchange,
    gateway,
    keys,
    logs,
    models,
    page,
    pipeline,
    planning,
    prompts,
    publishing,
    run_changes,
    runs,
    serving,
    sweeps,
    tools,
    traffic,
)
from tuneline.cli.consoles import errors_console
from tuneline.cli.help_pages import name_values_only
from tuneline.core.terminal import echo, guard_output, printable

name_values_only()
app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # they would print what an error quotes as it is
)
for group in (pipeline, sweeps, planning, evidence, costs, serving, gateway, publishing, exchange, page):
    app.add_typer(group.app)
app.add_typer(prompts.batch_app)
app.add_typer(assistant.mcp_app)
runs.app.add_typer(run_changes.app)
app.add_typer(runs.app, name="runs", rich_help_panel="Runs, bases, keys")
app.add_typer(models.app, name="models", rich_help_panel="Runs, bases, keys")
app.add_typer(tools.app, name="tools", rich_help_panel="Pipeline")
app.add_typer(prompts.app, name="prompts", rich_help_panel="Runs, bases, keys")
app.add_typer(assistant.app, name="assistant", rich_help_panel="Serving")
app.add_typer(traffic.app, name="traffic", rich_help_panel="Going live")
app.add_typer(logs.app, name="logs", rich_help_panel="Going live")
app.add_typer(keys.app, name="keys", rich_help_panel="Runs, bases, keys")


@app.callback()
def set_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=lambda asked: _print_version(asked))
    ] = False,
) -> None:
    """From a dataset to an evaluated, quantized, served model."""


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        echo(f"tuneline {metadata.version('tuneline')}")
        raise typer.Exit


def answer_llamahome_names() -> None:
    """Print what does here what LlamaHome's variables did: once for each, as a file in the cache folder remembers."""
    from tuneline.core import paths
    from tuneline.core.environment import list_llamahome_names

    if not (names := list_llamahome_names()):
        return
    file = paths.cache() / "llamahome_names"
    answered = file.read_text("utf-8").split() if file.exists() else []
    for name in sorted(names.keys() - set(answered)):
        errors_console.print(f"{name} is LlamaHome's and is not read; here it is {names[name]}", soft_wrap=True)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(sorted({*answered, *names})) + "\n", encoding="utf-8")


def main() -> None:
    """Run the command; an error a user can act on becomes one message and its exit code."""
    from tuneline.core.environment import check_environment
    from tuneline.core.errors import TunelineError, explain_os_error

    guard_output()
    # pydantic would read the metadata of every installed package to look for plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores SIGHUP, and must go on doing so
            # Leaving by SystemExit stops child processes and saves what they have.
            signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        check_environment()
        answer_llamahome_names()
        sys.exit(app(prog_name="tuneline", standalone_mode=False))
    except TunelineError as error:
        errors_console.print(Text(type(error).__name__, style="red"), str(error), soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if (message := explain_os_error(error)) is None:
            raise
        errors_console.print(Text(type(error).__name__, style="red"), message, soft_wrap=True)
        sys.exit(1)
    except typer.Abort:  # a question was answered with no, or nobody was there to answer it
        errors_console.print("aborted: nothing was done")
        sys.exit(1)
    except TyperException as error:  # a word that is no command, option or value
        from typer.rich_utils import rich_format_error

        error.message = printable(error.message)  # words may be names of files
        rich_format_error(cast(Any, error))
        sys.exit(error.exit_code)
