"""The `tuneline` command: `commands/` holds its verbs, `views/` what they print.

Nothing heavy is imported before it is needed: `--help` costs typer and rich alone.
"""

import os
import signal
import sys

import typer

from tuneline.cli.commands import evidence, keys, models, pipeline, planning, runs, serving
from tuneline.cli.consoles import errors_console

app = typer.Typer(
    help="From a dataset to an evaluated, quantized, served model.", no_args_is_help=True, add_completion=False
)
for group in (pipeline, planning, evidence, serving):
    app.add_typer(group.app)
app.add_typer(runs.app, name="runs", rich_help_panel="What is there")
app.add_typer(models.app, name="models", rich_help_panel="What is there")
app.add_typer(keys.app, name="keys", rich_help_panel="What is there")


def main() -> None:
    """Run the command; an error a user can act on becomes one message and its exit code."""
    from tuneline.core.errors import TunelineError

    # pydantic would read the metadata of every installed package to look for plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores SIGHUP, and must go on doing so
            # Leaving by SystemExit stops child processes and saves what they have.
            signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        app()
    except TunelineError as error:
        errors_console.print(f"[red]{type(error).__name__}[/red] ", end="")
        errors_console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
