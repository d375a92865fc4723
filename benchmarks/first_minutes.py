"""From nothing to a first result: seconds of packages, engine and each stage of the demo, in a fresh clone.

    python benchmarks/first_minutes.py [ROUNDS] [--peers]

Each round clones this repository's HEAD and sets it up with an empty environment and empty folders for models, runs and
builds; pip's own cache stays, as a newcomer's index is as near as his network. The machine must be idle: `make demo`
compiles beside the first stages, so that its steps together take longer than the whole. Prints the median of ROUNDS.

With `--peers` the same user takes TRL and Soup: packages into an empty environment, a LoRA of the tiny base on the rows
that the demo prepared, one greedy answer. Their result has no evaluation, no quantized file and no server.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
GOAL_S = 480.0
STAGES = ("prepare", "train", "convert", "evaluate")
BATCH_ROWS = 8
PROMPT = "Send Maria a WhatsApp saying the keys are ready"
PEERS: Mapping[str, Sequence[str]] = {
    "trl": ("trl[peft]==1.16.0",),
    "soup": ("soup-cli[train]==0.77.0",),
}
"""What `pip install` is given for each peer."""
GENERATE = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])  # with PEFT installed it loads an adapter with its base
chat = [{"role": "user", "content": sys.argv[2]}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64, do_sample=False)[0]))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=3)
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    rounds = [measure_round() for _ in range(options.rounds)]
    print_medians("tuneline", rounds)
    if options.peers:
        for peer in PEERS:
            print_medians(peer, [measure_peer(peer) for _ in range(options.rounds)])
    total = statistics.median(measured["total"] for measured in rounds)
    print(f"goal {GOAL_S:.0f} s: {'reached' if total <= GOAL_S else 'not reached'}")
    sys.exit(int(total > GOAL_S))


def print_medians(name: str, rounds: Sequence[Mapping[str, float]]) -> None:
    for step in rounds[0]:
        values = [measured[step] for measured in rounds]
        print(f"{name:<9} {step:<9} {statistics.median(values):8.1f} s   ({min(values):.1f} to {max(values):.1f})")


def measure_round() -> dict[str, float]:
    """Return the seconds of each step, and of all of them as `make demo` takes them from the clone on."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "tuneline"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        started = time.monotonic()
        packages = run_timed(clone, "make", "setup")
        done = run_timed(clone, "make", "demo")
        total = time.monotonic() - started
        (fetched,) = (clone / ".models").glob("*/manifest.json")
        stages = {"fetch": read_seconds(fetched.parent)}
        stages |= {stage: read_seconds(clone / ".runs/demo" / stage) for stage in STAGES}
        shutil.rmtree(clone / ".cache")
        engine = run_timed(clone, "make", "llama")  # alone, which it is not within `make demo`
        return {"packages": packages, "demo": done, **stages, "engine": engine, "total": total}


def measure_peer(peer: str, rows: int | None = None, python: Path | None = None) -> dict[str, float]:
    """Return the seconds of a peer's steps. `python` has the packages already; `rows` limits the data."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, rows)
        shutil.copytree(ROOT / "data/tiny", folder / "base")
        started = time.monotonic()
        packages = 0.0
        if python is None:
            python = folder / "venv/bin/python"
            packages = run_timed(folder, sys.executable, "-m", "venv", "venv")
            packages += run_timed(folder, str(python), "-m", "pip", "install", "--quiet", *PEERS[peer])
        train = run_timed(folder, str(python), *TRAIN[peer](folder))
        answer = run_timed(folder, str(python), "-c", GENERATE, "out", PROMPT)
        return {"packages": packages, "train": train, "answer": answer, "total": time.monotonic() - started}


def write_rows(folder: Path, rows: int | None) -> None:
    """Write the demo's training rows as chats; `prepare` is not timed, since peers' users bring such a file."""
    run_timed(
        ROOT, sys.executable, "-m", "tuneline", "prepare", "configs/recipes/demo.yaml", TUNELINE_RUNS=folder / "runs"
    )
    lines = (folder / "runs/demo/prepare/train.jsonl").read_text(encoding="utf-8").splitlines()[:rows]
    (folder / "rows").mkdir()
    with (folder / "rows/train.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"messages": json.loads(line)["messages"]}) + "\n" for line in lines)


def train_with_trl(folder: Path) -> list[str]:
    """Return the words of TRL's command with the demo's rank, learning rate and batch."""
    settings = {
        "model_name_or_path": "base",
        "dataset_name": "rows",
        "lora_r": "32",
        "lora_alpha": "64",
        "learning_rate": "1e-3",
        "num_train_epochs": "1",
        "per_device_train_batch_size": str(BATCH_ROWS),
        "gradient_accumulation_steps": "1",
        "bf16": "False",  # a CPU
        "report_to": "none",
        "output_dir": "out",
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    return ["-c", "from trl.cli import main; main()", "sft", "--use_peft", *words]


def train_with_soup(folder: Path) -> list[str]:
    """Write Soup's configuration with the same settings; return the words of its command."""
    config = {
        "base": "./base",
        "task": "sft",
        "data": {"train": "./rows/train.jsonl", "format": "chatml", "val_split": 0.01, "max_length": 512},
        "training": {
            "epochs": 1,
            "lr": 1e-3,
            "batch_size": BATCH_ROWS,
            "quantization": "none",
            "lora": {"r": 32, "alpha": 64},
        },
        "output": "./out",
    }
    (folder / "soup.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return ["-m", "soup_cli", "train", "--config", "soup.yaml", "--yes"]


TRAIN: Mapping[str, Callable[[Path], list[str]]] = {"trl": train_with_trl, "soup": train_with_soup}


def run_timed(folder: Path, *command: str, **variables: Path) -> float:
    """Return the wall seconds of a command in a folder, without our own environment variables but for `variables`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNELINE_")}
    if folder != ROOT:
        environment.pop("PYTHONPATH", None)
    environment |= {name: str(value) for name, value in variables.items()}
    started = time.monotonic()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def read_seconds(stage: Path) -> float:
    """Return how long a finished stage took, by its manifest."""
    return float(json.loads((stage / "manifest.json").read_text())["seconds"])


if __name__ == "__main__":
    main()
