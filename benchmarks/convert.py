"""One pass against the classic way: PEFT's merge, saved in 16 bit, llama.cpp's converter, llama-quantize.

On a made Llama of 1.1 B parameters with an adapter of rank 16, both ways on the same threads. Each step is a process of
its own: CPU seconds and peak memory are the kernel's, bytes written those of all files it left. Every tensor is
compared. `--billions 0.1` is quicker; `--curve` adds peak memory over sizes, `--kills` ten `kill -9`s.

PEFT's side of the merge loads the model, merges and calls `save_pretrained`; ours reads and writes shards. Neither
waits for the disk; how long the disk needs from there is shown beside both.
"""

import argparse
import filecmp
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.common.random_llama import SHAPES, save_random_llama
from benchmarks.common.rounds import ROOT, print_result
from tuneline.engines.llama_cpp.build import find_llama_cpp

SAMPLE_S = 0.02
KILLS = 10
MERGES = 3
TARGETS = {
    "q4_k_m.cpu": 0.85,
    "q4_k_m.memory": 0.25,
    "q4_k_m.written": 0.15,
    "three.cpu": 0.9,
    "three.written_to_outputs": 1.001,
    "merge.seconds": 1 / 3.5,
    "merge.peak_gb": 0.5,
}
MERGE = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload().save_pretrained(sys.argv[3])
"""
CONVERT = """
import sys
from pathlib import Path
llama, model, out = map(Path, sys.argv[1:4])
sys.path[:0] = [str(llama / "gguf-py"), str(llama)]
import conversion.base, gguf, torch
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "llama-bpe"
known = get_model_class(get_model_architecture(ModelBase.load_hparams(model, False), ModelType.TEXT))
with torch.inference_mode():
    converter = known(model, gguf.LlamaFileType.GUESSED, out, model_name="m")
    add, template = converter.gguf_writer.add_chat_template, (model / "chat_template.jinja").read_text()
    converter.gguf_writer.add_chat_template = lambda _: add(template)
    converter.write()
"""
OURS = (
    "import json, sys\nfrom tuneline.stages.convert.task import Task\nfrom tuneline.stages.convert.worker import run\n"
    "run(Task(**json.loads(sys.argv[1])), lambda **told: None)"
)
KILLED = """
import json, sys
from tuneline.stages.convert import worker
from tuneline.stages.convert.onepass import progress, stream
from tuneline.stages.convert.task import Task
stream.DURABLE_BYTES = int(sys.argv[2])
progress.ThrottledProgress.__call__ = lambda self, done, total: print(done, flush=True)
worker.run(Task(**json.loads(sys.argv[1])), lambda **told: None)
"""
OUR_MERGE = (
    "import sys\nfrom pathlib import Path\n"
    "from tuneline.stages.convert.onepass.merged_checkpoint import merge_adapter\n"
    "merge_adapter(*map(Path, sys.argv[1:4]), lambda done, total: None, threads=int(sys.argv[4]))"
)


@dataclass(frozen=True)
class Cost:
    """What a process, and what it started, used."""

    cpu_s: float
    wall_s: float
    peak_gb: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.cpu_s + other.cpu_s, self.wall_s + other.wall_s, max(self.peak_gb, other.peak_gb))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--billions", type=float, choices=list(SHAPES), default=1.1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--kills", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to work; about 10 bytes a parameter")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measured = compare(Path(folder), options.billions, options.threads)
        if options.kills:
            measured["identical"] *= kills(Path(folder), options.threads)
        if options.curve:
            curve(Path(folder), options.threads)
    for name, target in TARGETS.items():
        verdict = "met" if measured[name] <= target else "NOT met"
        print(f"{name:<26} {measured[name]:8.3f}   target {target:.3f}   {verdict}")
    met = all(measured[name] <= target for name, target in TARGETS.items()) and measured["identical"]
    rounded = {name: round(value, 3) for name, value in measured.items()}
    ratio, target = measured["q4_k_m.cpu"], TARGETS["q4_k_m.cpu"]
    print_result("convert", ratio, target, met=bool(met), billions=options.billions, measured=rounded)


def compare(folder: Path, billions: float, threads: int) -> dict[str, float]:
    """Both ways on one model; ratios of ours to the classic."""
    llama = find_llama_cpp()
    base = apart(save_random_llama, folder / "model", billions)[0]
    adapter, classic = folder / "model/adapter", folder / "classic"
    classic.mkdir()
    merged, our_merge = merges(base, adapter, classic / "merged", folder / "our-merged", threads)
    for file in base.iterdir():
        if file.suffix in (".json", ".jinja") and "index" not in file.name:
            shutil.copyfile(file, classic / "merged" / file.name)
    source = classic / "source.gguf"
    converted = run("convert", "-c", CONVERT, llama.source, classic / "merged", source, threads=threads)
    quantized = {}
    for kind in ("Q4_K_M", "Q5_K_M", "Q8_0"):
        words = (source, classic / f"tuned-{kind}.gguf", kind, threads)
        quantized[kind] = run(f"quantize {kind}", *words, program=llama.quantize, threads=threads)
    before = merged + converted
    intermediate = size(classic / "merged") + size(source)

    one = ours(folder / "one", base, adapter, ("Q4_K_M",), threads)
    three = ours(folder / "three", base, adapter, tuple(quantized), threads)
    q4, all_three = before + quantized["Q4_K_M"], before + sum(quantized.values(), Cost(0, 0, 0))
    outputs = sum((folder / "three" / f"tuned-{kind}.gguf").stat().st_size for kind in quantized)
    same = [
        filecmp.cmp(classic / f.name, f, shallow=False) for n in ("one", "three") for f in (folder / n).glob("*.gguf")
    ]
    return {
        "q4_k_m.cpu": one.cpu_s / q4.cpu_s,
        "q4_k_m.memory": one.peak_gb / q4.peak_gb,
        "q4_k_m.written": size(folder / "one") / (intermediate + size(classic / "tuned-Q4_K_M.gguf")),
        "three.cpu": three.cpu_s / all_three.cpu_s,
        "three.written_to_outputs": size(folder / "three") / outputs,
        "merge.seconds": our_merge.wall_s / merged.wall_s,
        "merge.peak_gb": our_merge.peak_gb,
        "identical": float(
            len(same) == 4 and all(same) and apart(same_weights, classic / "merged", folder / "our-merged")
        ),
    }


def merges(base: Path, adapter: Path, classic: Path, ours: Path, threads: int) -> tuple[Cost, Cost]:
    """PEFT's merge and ours in turn, several times; of each the run with the median time."""
    costs: list[tuple[Cost, Cost]] = []
    for _ in range(MERGES):
        pair = []
        for what, code, out in (("peft merge", MERGE, classic), ("our merge", OUR_MERGE, ours)):
            shutil.rmtree(out, ignore_errors=True)
            pair.append(run(what, "-c", code, base, adapter, out, threads, threads=threads))
            show_disk(out)
        costs.append((pair[0], pair[1]))
    peft, our = (sorted(side, key=lambda cost: cost.wall_s)[MERGES // 2] for side in zip(*costs, strict=True))
    return peft, our


def ours(folder: Path, base: Path, adapter: Path, kinds: tuple[str, ...], threads: int) -> Cost:
    (folder / "scratch").mkdir(parents=True)
    outputs = [{"path": str(folder / f"tuned-{kind}.gguf"), "kind": kind, "name": "m"} for kind in kinds]
    task = {"base": str(base), "adapter": str(adapter), "scratch": str(folder / "scratch"), "outputs": outputs}
    return run(f"one pass {' '.join(kinds)}", "-c", OURS, json.dumps(task | {"threads": threads}), threads=threads)


def show_disk(folder: Path) -> None:
    """How long it takes until what a step left is on the disk."""
    started = time.perf_counter()
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    print(f"{'':32} {time.perf_counter() - started:.1f} s more until it is on the disk", flush=True)


def kills(folder: Path, threads: int) -> float:
    """1.0 if one pass killed at ten random points, and then let finish, left the bytes of `one` and `our-merged`."""
    base, adapter, place = folder / "model/base", folder / "model/adapter", folder / "killed"
    task = {"base": str(base), "adapter": str(adapter), "scratch": str(place / "scratch"), "threads": threads}
    task |= {"outputs": [{"path": str(place / "tuned-Q4_K_M.gguf"), "kind": "Q4_K_M", "name": "m"}]}
    task |= {"merged": str(place / "merged")}
    (place / "scratch").mkdir(parents=True)
    total = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    chance = random.Random(0)
    points = [point * total for point in sorted(chance.random() for _ in range(KILLS))]
    told = []
    for point in (*points, None):
        command = [sys.executable, "-c", KILLED, json.dumps(task), str(total // 40)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
        ) as process:
            done = [int(line) for line in _until(process, point)]
        told.append(f"{done[0] / total:.0%}" if done else "-")
        if point is None and process.returncode:
            sys.exit(f"one pass after {KILLS} kills ended with {process.returncode}")
    same = filecmp.cmp(place / "tuned-Q4_K_M.gguf", folder / "one" / "tuned-Q4_K_M.gguf", shallow=False)
    for file in sorted((folder / "our-merged").glob("*.safetensors")):
        same = same and filecmp.cmp(file, place / "merged" / file.name, shallow=False)
    at = ", ".join(f"{point / total:.0%}" for point in points)
    print(f"killed at {at}; began at {', '.join(told)}: {'the same bytes' if same else 'OTHER BYTES'}", flush=True)
    return float(same)


def _until(process: "subprocess.Popen[str]", point: float | None) -> Iterator[str]:
    """What it tells of bytes done, until that is beyond `point`: then it is killed."""
    assert process.stdout
    for line in process.stdout:
        yield line
        if point is not None and int(line) >= point:
            process.send_signal(signal.SIGKILL)
            return


def curve(folder: Path, threads: int) -> None:
    """Peak memory over the size of the model."""
    for billions in SHAPES:
        base, parameters = apart(save_random_llama, folder / f"curve{billions}", billions)
        cost = ours(folder / f"curve{billions}" / "out", base, base.parent / "adapter", ("Q8_0",), threads)
        print(f"{parameters / 1e9:5.2f} B parameters: peak {cost.peak_gb:.2f} GB")
        shutil.rmtree(folder / f"curve{billions}")


def apart(function: Callable[..., Any], *words: Any) -> Any:
    """Called in a process of its own: what this one holds in memory, the kernel counts for those it starts."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *words).result()


def run(what: str, *words: Any, threads: int, program: Path | None = None) -> Cost:
    """A process to its end, and what it cost."""
    command = [str(program or sys.executable), *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
        pid, peak_gb, anonymous_gb = 0, 0.0, 0.0
        while not pid:
            peak_gb, anonymous_gb = _memory(process.pid, peak_gb, anonymous_gb)
            time.sleep(SAMPLE_S)
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{what}: ended with {process.returncode}\n{log.read().decode()[-3000:]}")
    cost = Cost(used.ru_utime + used.ru_stime, time.perf_counter() - started, peak_gb)
    told = f"{cost.cpu_s:7.1f} CPU s {cost.wall_s:7.1f} s {peak_gb:6.2f} GB peak, {anonymous_gb:.2f} GB of it no file's"
    print(f"{what:<32} {told}", flush=True)
    return cost


def _memory(process: int, peak_gb: float, anonymous_gb: float) -> tuple[float, float]:
    """The peak so far, as the kernel keeps it for the program, and the most of it seen that is no file's.

    Not `ru_maxrss`: it is also the memory of whoever started the program, before exec. proc_pid_status(5)
    """
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = {key: int(value.split()[0]) * 1024 / 1e9 for key, value in re.findall(r"(VmHWM|RssAnon):\s+(.+)", text)}
    return max(peak_gb, found.get("VmHWM", 0)), max(anonymous_gb, found.get("RssAnon", 0))


def size(path: Path) -> int:
    """Bytes on disk; a hole is none."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files)


def same_weights(first: Path, second: Path) -> bool:
    from safetensors import safe_open

    def opened(folder: Path) -> dict[str, Any]:
        files = [safe_open(file, "pt") for file in sorted(folder.glob("*.safetensors"))]
        return {name: file for file in files for name in file.keys()}  # noqa: SIM118 (no mapping)

    one, other = opened(first), opened(second)
    names = one.keys() | other.keys()
    return one.keys() == other.keys() and all(one[n].get_tensor(n).equal(other[n].get_tensor(n)) for n in names)


if __name__ == "__main__":
    main()
