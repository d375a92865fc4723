"""`tuneline plan` for Scout against a bare typer command that reads the same YAML, in turn; wall seconds, medians."""

import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.common.rounds import ROOT, in_turn, median_ratio, print_result, print_table, seconds_of

RECIPE = str(ROOT / "configs/recipes/llama-4-scout.yaml")
ROUNDS = 15
TARGET = 1.5
BARE = """
from pathlib import Path
import typer
import yaml
from rich.console import Console
app = typer.Typer(no_args_is_help=True, add_completion=False)
console = Console()
@app.command()
def plan(recipe: Path) -> None:
    "Read one YAML."
    console.print(yaml.safe_load(recipe.read_text()))
app()
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        seconds = in_turn(
            {
                "tuneline plan": lambda: seconds_of([sys.executable, "-m", "tuneline", "plan", RECIPE]),
                "bare typer + yaml": lambda: seconds_of([sys.executable, str(bare), RECIPE]),
            },
            ROUNDS,
        )
    print_table(seconds, "s")
    ratio = median_ratio(*seconds.values())
    print_result("plan_start", ratio, TARGET, met=ratio <= TARGET)


if __name__ == "__main__":
    main()
