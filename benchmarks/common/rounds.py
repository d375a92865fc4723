"""What all benchmarks share: sides measured in turn, their medians as a table, and one JSON line at the end."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def in_turn(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return what each side measured, a value a round.

    Every round asks each side once, so that a machine that slows down slows all of them. The first round warms caches
    and does not count.
    """
    values: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, measure in sides.items():
            value = measure()
            if number:
                values[name].append(value)
    return values


def medians(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each side."""
    return {name: statistics.median(measured) for name, measured in values.items()}


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the median over rounds of `first` divided by `second`."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def print_table(values: Mapping[str, Sequence[float]], unit: str) -> None:
    """Print a line a side: median, range and number of rounds."""
    width = max(map(len, values))
    for name, measured in values.items():
        spread = f"{min(measured):.3f}–{max(measured):.3f}"
        print(f"{name:<{width}}  median {statistics.median(measured):.3f} {unit}   {spread}   n = {len(measured)}")


def print_result(benchmark: str, ratio: float | None, target: float, *, met: bool, **more: Any) -> None:
    """Print the benchmark's last line: JSON with `benchmark`, `ratio`, `target`, `met`, then whatever it adds.

    `ratio` is what `target` is compared with; None where it was not measured.
    """
    shown = None if ratio is None else round(ratio, 3)
    print(json.dumps({"benchmark": benchmark, "ratio": shown, "target": target, "met": bool(met), **more}), flush=True)


def seconds_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Return the wall seconds of a command in the repository's folder; end the benchmark if it fails."""
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | dict(environment or {}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started


def in_own_process(*words: str) -> dict[str, Any]:
    """Run this benchmark again with `words` in a process of its own; return the JSON that its last line is.

    Raises:
        subprocess.CalledProcessError: it failed; what it printed as errors was passed through.
    """
    command = [sys.executable, sys.argv[0], *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def threads() -> int:
    """Return the number of threads to compute with: OMP_NUM_THREADS, else the cores this process may use."""
    return int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
