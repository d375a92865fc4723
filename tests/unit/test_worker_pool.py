"""Worker processes end with the process they measure for, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tuneline.core.paths import ROOT

MEASURING = """
import os, sys, time
from pathlib import Path
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rendering.worker_pool import FEWEST_ROWS, WorkerPool
row = b'{"messages": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}], "tools": []}'
with WorkerPool(Renderer(ROOT / "data/tiny", None), {}) as pool:
    measures = pool.measure([row] * FEWEST_ROWS)()
    children = Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
    print(len(measures), *children, flush=True)
    time.sleep(60)
"""


def test_workers_die_with_a_killed_parent() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", MEASURING], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout
        rows, *workers = parent.stdout.readline().split()
        parent.send_signal(signal.SIGKILL)
    assert rows == "256" and (workers or len(os.sched_getaffinity(0)) < 2)
    deadline = time.monotonic() + 10
    while alive := [pid for pid in workers if _is_running(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def _is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
