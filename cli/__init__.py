"""The `tuneline` command: `commands/` holds its verbs, `views/` what they print.

Nothing heavy is imported before it is needed: `--help` costs typer and rich alone.
"""

import os
import signal
import sys
from typing import Any, cast

import typer
from rich.text import Text
from typer.exceptions import TyperException

from tuneline.cli.commands import evidence, keys, models, pipeline, planning, runs, serving
from tuneline.cli.consoles import errors_console
from tuneline.core.terminal import guard_output, printable

app = typer.Typer(
    help="From a dataset to an evaluated, quantized, served model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they would print what an error quotes as it is
)
for group in (pipeline, planning, evidence, serving):
    app.add_typer(group.app)
app.add_typer(runs.app, name="runs", rich_help_panel="What is there")
app.add_typer(models.app, name="models", rich_help_panel="What is there")
app.add_typer(keys.app, name="keys", rich_help_panel="What is there")


def main() -> None:
    """Run the command; an error a user can act on becomes one message and its exit code."""
    from tuneline.core.errors import TunelineError, explain_os_error

    guard_output()
    # pydantic would read the metadata of every installed package to look for plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores SIGHUP, and must go on doing so
            # Leaving by SystemExit stops child processes and saves what they have.
            signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        sys.exit(app(standalone_mode=False))
    except TunelineError as error:
        errors_console.print(Text(type(error).__name__, style="red"), str(error), soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if (message := explain_os_error(error)) is None:
            raise
        errors_console.print(Text(type(error).__name__, style="red"), message, soft_wrap=True)
        sys.exit(1)
    except TyperException as error:  # a word that is no command, option or value
        from typer.rich_utils import rich_format_error

        error.message = printable(error.message)  # words may be names of files
        rich_format_error(cast(Any, error))
        sys.exit(error.exit_code)
