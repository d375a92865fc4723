"""What Modal adds, offline: importing app.py, `modal deploy`, the line in containers; wall seconds, medians.

The real client and container entrypoint against `rehearsal/`, in turn with the same without it: `import modal`; and
`tuneline run` of the micro recipe, each time from nothing. The ratio is the largest of measured over allowed.

    python benchmarks/on_modal.py [--starts 9] [--deploys 5] [--lines 3]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.common.rounds import ROOT, medians, print_result, print_table, seconds_of
from tuneline.rehearsal.session import Rehearsal

MODAL = str(Path(sys.executable).with_name("modal"))
MICRO = "configs/recipes/micro.yaml"
ALLOWED = {"import_s": 0.5, "deploy_s": 5.0, "pipeline_overhead": 0.25}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--starts", type=int, default=9)
    parser.add_argument("--deploys", type=int, default=5)
    parser.add_argument("--lines", type=int, default=3)
    options = parser.parse_args()
    os.environ.setdefault("TUNELINE_CACHE", str(ROOT / ".cache"))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        values = {
            "import_s": import_seconds(options.starts),
            "deploy_s": deploy_seconds(options.deploys, home / "deploys"),
            "pipeline_overhead": overheads(options.lines, home),
        }
    print_table(values, "")
    measured = medians(values)
    ratio = max(measured[name] / allowed for name, allowed in ALLOWED.items())
    more = {"medians": {name: round(value, 3) for name, value in measured.items()}, "allowed": ALLOWED}
    print_result("on_modal", ratio, 1.0, met=ratio <= 1, **more)


def import_seconds(times: int) -> list[float]:
    """Return the seconds of `import app` beyond those of `import modal`; the first import does not count."""
    code = "import sys, time; import modal; began = time.perf_counter(); import app; print(time.perf_counter() - began)"
    printed = [subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) for _ in range(times + 1)]
    return [float(seconds) for seconds in printed[1:]]


def deploy_seconds(times: int, folder: Path) -> list[float]:
    """Return the seconds of `modal deploy app.py`; the first, which uploads every file, does not count."""
    with Rehearsal(folder) as rehearsal:
        return [seconds_of([MODAL, "deploy", "app.py"], rehearsal.environment) for _ in range(times + 1)][1:]


def overheads(times: int, home: Path) -> list[float]:
    """Return the share of time by which the pipeline in containers is longer than `tuneline run`, in turn."""
    shares = []
    for number in range(times):
        folders = {"TUNELINE_RUNS": str(home / f"runs{number}"), "TUNELINE_MODELS": str(home / f"models{number}")}
        local = seconds_of([sys.executable, "-m", "tuneline", "run", MICRO], folders)
        with Rehearsal(home / f"cloud{number}") as rehearsal:
            remote = seconds_of([MODAL, "run", "app.py::pipeline", "--recipe", MICRO], rehearsal.environment)
        print(f"tuneline run {local:.1f} s, in containers {remote:.1f} s")
        shares.append(remote / local - 1)
    return shares


if __name__ == "__main__":
    main()
