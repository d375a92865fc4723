"""How much the demo's figures vary: between seeds, instruction sets and numbers of threads.

    python benchmarks/seeds.py [RECIPE] [--seeds 8] [--to FOLDER]

Trains the recipe once a seed, and seed 0 once more for each of PyTorch's instruction sets and for 1, 2 and 4 threads;
everything else is the recipe. Prints the share of right tools and of exact calls of each, their mean and standard
deviation over the seeds, and how far the recipe's floor is below the mean of the gate's lower bounds, in standard
deviations of these bounds (target: 3). What is
in FOLDER already is not made again, so that the command may be interrupted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common.rounds import ROOT, print_result

sys.path.insert(0, str(ROOT))

from tuneline.configs.recipe_file import load_recipe
from tuneline.stages.evaluate.statistics import clopper_pearson

TARGET, CONFIDENCE = 3.0, 0.95
CAPABILITIES = ("default", "avx2", "avx512")
"""Values of ATEN_CPU_CAPABILITY; without it PyTorch takes the best that the processor has."""
THREADS = (1, 2, 4)


@dataclass(frozen=True)
class Variant:
    """One training: its name, its settings beside the recipe's, and environment variables."""

    name: str
    settings: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=ROOT / "configs/recipes/demo.yaml")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--to", type=Path, default=ROOT / ".runs/seeds")
    options = parser.parse_args()
    suite, rows, floor, served = read_demand(options.recipe)
    seeds = [Variant(f"seed-{seed}", (f"train.seed={seed}",)) for seed in range(options.seeds)]
    shares: dict[str, tuple[float, float]] = {}
    for variant in seeds + list_machine_variants():
        folder = options.to / variant.name
        run_line(options.recipe, variant, folder)
        shares[variant.name] = read_shares(folder / options.recipe.stem / "evaluate/manifest.json", suite, served)
        print(
            f"{variant.name:<16} right tool {shares[variant.name][0]:.3f}   exact {shares[variant.name][1]:.3f}",
            flush=True,
        )
    right, exact = ([shares[variant.name][column] for variant in seeds] for column in (0, 1))
    print_spread("right tool", right)
    print_spread("exact", exact)
    bounds = [clopper_pearson(round(share * rows), rows, CONFIDENCE) for share in right]
    print_spread("lower bound", bounds)
    room = (statistics.mean(bounds) - floor) / statistics.stdev(bounds)
    print_result("seeds", room, TARGET, met=room >= TARGET, floor=floor, suite=suite, file=served)


def read_demand(recipe: Path) -> tuple[str, int, float, str]:
    """Return the recipe's first suite with a floor, its rows, the floor, and the type of the file that serves."""
    loaded = load_recipe(recipe)
    suite = next(suite for suite in loaded.evaluate.suites if suite.floor is not None)
    assert suite.rows
    return str(suite.name), suite.rows, float(suite.floor or 0), str(loaded.serve.type)


def list_machine_variants() -> list[Variant]:
    """Return seed 0 on every instruction set and with every number of threads."""
    sets = [Variant(f"aten-{name}", (), (("ATEN_CPU_CAPABILITY", name),)) for name in CAPABILITIES]
    return sets + [Variant(f"threads-{count}", (f"compute.threads={count}",)) for count in THREADS]


def run_line(recipe: Path, variant: Variant, folder: Path) -> None:
    """Run the whole line into `folder`; a gate that is not passed is a result, too."""
    settings = [word for setting in variant.settings for word in ("--set", setting)]
    command = [str(Path(sys.executable).with_name("tuneline")), "run", str(recipe), *settings]
    environment = os.environ | dict(variant.environment) | {"TUNELINE_RUNS": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{variant.name} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def read_shares(manifest: Path, suite: str, served: str) -> tuple[float, float]:
    """Return the shares of right tools and of exact calls of the file that serves."""
    scoreboard = json.loads(manifest.read_text(encoding="utf-8"))["metrics"]["scoreboard"]
    row = next(row for row in scoreboard if row["suite"] == suite and row["target"] == f"tuned-{served}")
    return row["name_accuracy"], row["exact_accuracy"]


def print_spread(name: str, shares: list[float]) -> None:
    spread = f"{min(shares):.3f}–{max(shares):.3f}"
    mean, deviation = statistics.mean(shares), statistics.stdev(shares)
    print(f"{name}: mean {mean:.3f}, standard deviation {deviation:.4f}, {spread}, {len(shares)} seeds")


if __name__ == "__main__":
    main()
