"""The `tuneline` command: the line and its verbs, evidence, serving, runs, bases and keys; a file for each.

Nothing heavy is imported before it is needed: `--help` costs typer and rich alone.
"""

import os
import signal
import sys

import typer

from tuneline.cli import evidence, keys, models, pipeline, runs, serving
from tuneline.cli.shared import errors_console

app = typer.Typer(
    help="From a dataset to an evaluated, quantized, served model.", no_args_is_help=True, add_completion=False
)
for verbs in (pipeline, evidence, serving):
    app.add_typer(verbs.app)
app.add_typer(runs.app, name="runs", rich_help_panel="What is there")
app.add_typer(models.app, name="models", rich_help_panel="What is there")
app.add_typer(keys.app, name="keys", rich_help_panel="What is there")


def main() -> None:
    """Run the command; an error a user can act on is one message and its exit code."""
    from tuneline.core.errors import TunelineError

    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it would read the metadata of every package here
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores SIGHUP, and that is to stay
            signal.signal(number, lambda caught, _: sys.exit(128 + caught))  # what runs is stopped and saved
    try:
        app()
    except TunelineError as error:
        errors_console.print(f"[red]{type(error).__name__}[/red] ", end="")
        errors_console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
