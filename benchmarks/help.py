"""`tuneline --help` against a bare typer + rich command of as many verbs, in turn; wall seconds, medians."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
RUNS = 9
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
        commands = {"tuneline": ["-m", "tuneline", "--help"], "bare typer + rich": [str(bare), "--help"]}
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for run in range(RUNS + 1):
            for name, words in commands.items():
                took = timed([sys.executable, *words])
                if run:  # the first is a warm-up
                    seconds[name].append(took)
    for name, values in seconds.items():
        print(f"{name:<20} median {np.median(values):.3f} s   {min(values):.3f}–{max(values):.3f}")
    ratio = float(np.median([a / b for a, b in zip(*seconds.values(), strict=True)]))
    print(json.dumps({"benchmark": "help", "ratio": round(ratio, 3), "target": TARGET, "met": ratio <= TARGET}))


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
