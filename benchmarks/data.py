"""The data side against its peers in one run: rows a second, memory, planted faults found, masks right.

    python benchmarks/data.py speed [--rows 100000]     validate + deduplicate + render + tokenize + pack, against TRL
                                                        (two processes) and datasketch
    python benchmarks/data.py memory [--rows 1000000]   peak memory from 10,000 rows to so many
    python benchmarks/data.py memory --gigabytes 2      peak memory for a file of long rows
    python benchmarks/data.py faults [--seed N]         1,000 faults of 25 kinds in 50,000 rows; a fresh seed if none
    python benchmarks/data.py masks                     every assistant token, and no other, of 2,000 conversations

The generator of faults shares no code with the checks. The parts are in `data_parts/`.
"""

import argparse
import json
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.common.rounds import in_own_process, print_result
from benchmarks.data_parts import faults, masks
from benchmarks.data_parts.memory import MemoryWatch, cpu_seconds
from benchmarks.data_parts.rows import write_chat, write_long
from benchmarks.data_parts.sides import SIDES

TARGETS = {"with_deduplication": 5.0, "without": 3.0}
PEAK_GIB, INDEX_BYTES_A_ROW, FLAT_BYTES_A_ROW = 1.0, 700, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["speed", "memory", "faults", "masks", "side"])
    parser.add_argument("side", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--gigabytes", type=float, default=0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    if options.what == "side":
        print(json.dumps(measure_side(options.side[0], Path(options.side[1]))))
        return
    runs = {
        "speed": lambda: speed(options.rows or 100_000),
        "memory": lambda: memory(options.rows or 1_000_000, options.gigabytes),
        "faults": lambda: faults.measure(
            options.rows or 50_000, secrets.randbelow(10**6) if options.seed is None else options.seed
        ),
        "masks": lambda: masks.measure(options.rows or 2000),
    }
    for name in [options.what] if options.what else runs:
        runs[name]()


def speed(rows: int) -> None:
    """Ours and the peers on the same rows, in turn, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_chat(file, rows, random.Random(0))
        measured = {
            name: in_own_process("side", name, str(file)) for name in ("ours", "ours_without", "trl", "datasketch")
        }
    for name, side in measured.items():
        print(f"{name}: {side['seconds']:.1f} s ({rows / side['seconds']:.0f} rows/s), {side['cpu']:.1f} CPU-s")
    seconds = {name: side["seconds"] for name, side in measured.items()}
    ratios = {
        "with_deduplication": (seconds["trl"] + seconds["datasketch"]) / seconds["ours"],
        "without": seconds["trl"] / seconds["ours_without"],
    }
    met = all(ratios[name] >= target for name, target in TARGETS.items())
    rounded = {name: round(ratio, 2) for name, ratio in ratios.items()}
    first = "with_deduplication"
    print_result("data speed", ratios[first], TARGETS[first], met=met, rows=rows, ratios=rounded, targets=TARGETS)


def memory(rows: int, gigabytes: float) -> None:
    """Peak memory, all processes together: of few and many rows, or of a file of so many gigabytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        if gigabytes:
            write_long(file, int(gigabytes * 1e9), random.Random(0))
            peak_gib = in_own_process("side", "examine", str(file))["peak_bytes"] / 2**30
            written = round(file.stat().st_size / 1e9, 2)
            print_result("data peak", peak_gib, PEAK_GIB, met=peak_gib <= PEAK_GIB, gigabytes=written)
            return
        few = 10_000
        peaks: dict[tuple[str, int], int] = {}
        for number in (few, rows):
            write_chat(file, number, random.Random(0))
            for name in ("examine", "examine_without"):
                peaks[name, number] = in_own_process("side", name, str(file))["peak_bytes"]
                print(f"{number} rows, {name}: peak {peaks[name, number] / 2**20:.0f} MiB")
    flat = (peaks["examine_without", rows] - peaks["examine_without", few]) / (rows - few)
    index = (peaks["examine", rows] - peaks["examine", few]) / (rows - few) - flat
    met = flat <= FLAT_BYTES_A_ROW and index <= INDEX_BYTES_A_ROW
    print_result("data memory", index, INDEX_BYTES_A_ROW, met=met, rows=rows, bytes_a_row=round(flat))


def measure_side(name: str, file: Path) -> dict[str, Any]:
    run = SIDES[name](file)
    cpu_before, started = cpu_seconds(), time.perf_counter()
    watch = MemoryWatch() if name.startswith("examine") else None
    run()
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu_before
    return {"seconds": seconds, "cpu": cpu, "peak_bytes": watch.peak() if watch else 0}


if __name__ == "__main__":
    main()
