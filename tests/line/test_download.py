"""Faults between here and the hub, a few of each kind: `benchmarks/download.py` does a hundred."""

import json
import os
import subprocess
import sys

from tuneline.core.paths import ROOT

RUNS, MEGABYTES = 2, 11
"""More than the client keeps before it writes (10 MB)."""


def test_no_fault_makes_a_wrong_file_and_each_is_resumed_or_explained() -> None:
    command = [sys.executable, "benchmarks/download.py", "--no-speed", f"--runs={RUNS}", f"--megabytes={MEGABYTES}"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["met"], done.stdout
    outcomes = found["faults"]
    assert len(outcomes) == 10 and all(sum(each.values()) == RUNS for each in outcomes.values())
    for kind in ("drop", "corrupt", "stall", "429"):
        assert outcomes[kind]["resumed"] == RUNS, kind
    for kind in ("corrupt for ever", "401", "403", "404", "disk full"):
        assert outcomes[kind]["explained"] == RUNS, kind
