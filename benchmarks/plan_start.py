"""`tuneline plan` for Scout against a bare typer command that reads the same YAML, in turn; wall seconds, medians."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs/recipes/llama-4-scout.yaml"
RUNS = 15
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
        commands = {
            "tuneline plan": ["-m", "tuneline", "plan", str(RECIPE)],
            "bare typer + yaml": [str(bare), str(RECIPE)],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for run in range(RUNS + 1):
            for name, words in commands.items():
                took = timed([sys.executable, *words])
                if run:  # the first is a warm-up
                    seconds[name].append(took)
    for name, values in seconds.items():
        print(f"{name:<20} median {statistics.median(values):.3f} s   {min(values):.3f}–{max(values):.3f}")
    ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
    print(json.dumps({"benchmark": "plan_start", "ratio": round(ratio, 3), "target": TARGET, "met": ratio <= TARGET}))


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
