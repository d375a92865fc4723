"""`tuneline --help` against a bare typer + rich command of as many verbs, in turn; wall seconds, medians."""

import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.common.rounds import in_turn, median_ratio, print_result, print_table, seconds_of

ROUNDS = 9
TARGET = 1.5
BARE = """
import typer
from rich.console import Console
app = typer.Typer(no_args_is_help=True, add_completion=False)
console = Console()
def verb(name):
    def run(recipe: str, run: str = "", only: bool = False, as_json: bool = False) -> None:
        "One verb."
        console.print(recipe)
    app.command(name)(run)
for i in range(13):
    verb(f"verb{i}")
app()
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        seconds = in_turn(
            {
                "tuneline": lambda: seconds_of([sys.executable, "-m", "tuneline", "--help"]),
                "bare typer + rich": lambda: seconds_of([sys.executable, str(bare), "--help"]),
            },
            ROUNDS,
        )
    print_table(seconds, "s")
    ratio = median_ratio(*seconds.values())
    print_result("help", ratio, TARGET, met=ratio <= TARGET)


if __name__ == "__main__":
    main()
