"""What Modal adds, offline: importing app.py, `modal deploy`, the line in containers; wall seconds, medians.

The real client and container entrypoint against `rehearsal/`, in turn with the same without it: `import modal`; and
`tuneline run` of the micro recipe, each time from nothing.

    python benchmarks/on_modal.py [--starts 9] [--deploys 5] [--lines 3]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)
from tuneline.rehearsal.command import Rehearsal  # noqa: E402

MODAL = str(Path(sys.executable).with_name("modal"))
MICRO = "configs/recipes/micro.yaml"
TARGETS = {"import_s": 0.5, "deploy_s": 5.0, "pipeline_overhead": 0.25}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--starts", type=int, default=9)
    parser.add_argument("--deploys", type=int, default=5)
    parser.add_argument("--lines", type=int, default=3)
    words = parser.parse_args()
    os.environ.setdefault("TUNELINE_CACHE", str(ROOT / ".cache"))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        found = {"import_s": imports(words.starts), "deploy_s": deploys(words.deploys, home / "deploys")}
        found["pipeline_overhead"] = overheads(words.lines, home)
    medians = {name: round(statistics.median(values), 3) for name, values in found.items()}
    for name, values in found.items():
        spread = f"{min(values):.3f}–{max(values):.3f}"
        print(f"{name:<18} median {medians[name]:.3f}   {spread}   n = {len(values)}   target ≤ {TARGETS[name]:g}")
    met = {name: medians[name] <= target for name, target in TARGETS.items()}
    print(json.dumps({"benchmark": "on_modal", "medians": medians, "targets": TARGETS, "met": all(met.values())}))


def imports(times: int) -> list[float]:
    """Seconds of `import app` beyond those of `import modal`, each pair in turn after one that does not count."""
    code = "import sys, time; import modal; began = time.perf_counter(); import app; print(time.perf_counter() - began)"
    told = [subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) for _ in range(times + 1)]
    return [float(seconds) for seconds in told[1:]]


def deploys(times: int, folder: Path) -> list[float]:
    """Seconds of `modal deploy app.py`; the first, which uploads every file, does not count."""
    with Rehearsal(folder) as rehearsal:
        return [timed([MODAL, "deploy", "app.py"], rehearsal.environment) for _ in range(times + 1)][1:]


def overheads(times: int, home: Path) -> list[float]:
    """Share of time by which the pipeline in containers is longer than `tuneline run`, each pair in turn."""
    found = []
    for turn in range(times):
        here = {"TUNELINE_RUNS": str(home / f"runs{turn}"), "TUNELINE_MODELS": str(home / f"models{turn}")}
        alone = timed([sys.executable, "-m", "tuneline", "run", MICRO], here)
        with Rehearsal(home / f"cloud{turn}") as rehearsal:
            there = timed([MODAL, "run", "app.py::pipeline", "--recipe", MICRO], rehearsal.environment)
        print(f"tuneline run {alone:.1f} s, in containers {there:.1f} s")
        found.append(there / alone - 1)
    return found


def timed(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
