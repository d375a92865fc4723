"""What rounding the merged weights costs: a merge in the base's bf16, as PEFT makes it, against fp32 sums.

    python benchmarks/merge_rounding.py [--base tiny] [--steps 3 30 300]

Trains the demo's task for so many steps (LoRA, rank 16), makes GGUF files of both merges, and compares each with base
and adapter unmerged on validation rows: perplexity, KL divergence in nats a token, and the share of answer tokens at
which the file's first choice is the adapter's. `ratio` is the geometric mean over steps of the KL divergence of F16
from the bf16 merge, divided by that from fp32 sums.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common.rounds import ROOT, print_result

sys.path.insert(0, str(ROOT))

from tuneline.engines.llama_cpp.build import find_llama_cpp
from tuneline.engines.llama_cpp.libllama import Gguf
from tuneline.stages.convert.onepass.merged_checkpoint import merge_adapter
from tuneline.stages.convert.reference_model import load_tuned_model
from tuneline.stages.convert.task import GgufOutput, Task

TARGET = 4.0
KINDS = ("F16", "Q8_0", "Q4_K_M")
ROWS, TOKENS = 48, 6000
RECIPE = """
base: {base}
data:
  tools: {root}/configs/tools/handlers.yaml
  catalogue: learned
  sources:
    - {{grammar: {root}/data/requests/train.yaml, rows: 2600}}
  validation_rows: {rows}
train: {{method: lora, rank: 16, alpha: 32, learning_rate: 2.0e-4, batch_rows: 8, max_steps: {steps}, save_steps: 1000,
  evaluate_steps: 1000, warmup_steps: 2}}
evaluate:
  suites:
    - {{name: development, grammar: {root}/data/requests/development.yaml, rows: 16}}
"""
CONVERT = """
import sys
from tuneline.stages.convert.task import Task
from tuneline.stages.convert.worker import run
run(Task.model_validate_json(sys.argv[1]), lambda **progress: None)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 30, 300])
    options = parser.parse_args()
    ratios = []
    print("steps merge file    perplexity of adapter   KL, nats same token")
    for steps in options.steps:
        with tempfile.TemporaryDirectory() as scratch:
            figures = compare(options.base, steps, Path(scratch))
        for (merge, kind), (perplexity, reference, divergence, same) in figures.items():
            losses = f"{perplexity:>10.4f} {reference:>10.4f} {divergence:>10.2e} {same:>10.4f}"
            print(f"{steps:>5} {merge:<5} {kind:<7} {losses}", flush=True)
        ratios.append(figures["bf16", "F16"][2] / figures["fp32", "F16"][2])
    ratio = math.prod(ratios) ** (1 / len(ratios))
    print_result("merge_rounding", ratio, TARGET, met=ratio >= TARGET, base=options.base, steps=options.steps)


def compare(base: str, steps: int, scratch: Path) -> dict[tuple[str, str], tuple[float, float, float, float]]:
    """Return perplexity, the adapter's, KL divergence and share of same tokens, by merge and type."""
    recipe = scratch / "merge.yaml"
    recipe.write_text(RECIPE.format(base=base, root=ROOT, rows=ROWS, steps=steps), encoding="utf-8")
    tuneline = str(Path(sys.executable).with_name("tuneline"))
    environment = {"TUNELINE_RUNS": str(scratch / "runs")}
    run_quietly([tuneline, "train", str(recipe)], environment)
    run = scratch / "runs/merge"
    folder = ROOT / "data/tiny" if base == "tiny" else Path(base)
    files = make_files(folder, run / "train/adapter", scratch)
    return measure(folder, run, files)


def make_files(base: Path, adapter: Path, scratch: Path) -> dict[tuple[str, str], Path]:
    """Make each type from both merges; return their files."""
    merged = scratch / "merged"
    merge_adapter(base, adapter, merged, lambda done, total: None)
    files = {(merge, kind): scratch / f"{merge}-{kind}.gguf" for merge in ("fp32", "bf16") for kind in KINDS}
    for merge, model in (("fp32", base), ("bf16", merged)):
        tuned = merge == "fp32"
        outputs = [GgufOutput(path=files[merge, kind], kind=kind, name=kind, tuned=tuned) for kind in KINDS]
        place = scratch / merge
        place.mkdir()
        task = Task(base=model, scratch=place, outputs=tuple(outputs), adapter=adapter if tuned else None, threads=2)
        run_quietly([sys.executable, "-c", CONVERT, task.model_dump_json()], {})
    return files


def run_quietly(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[:200]} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def measure(base: Path, run: Path, files: dict[tuple[str, str], Path]) -> dict[Any, tuple[float, float, float, float]]:
    """Return the figures of each file on validation rows, compared with base and adapter."""
    import numpy as np
    import torch

    from tuneline.stages.prepare.prepared_run import TEMPLATE, load_tools, read_prepared
    from tuneline.stages.prepare.rendering.renderer import Renderer

    prepared = run / "prepare"
    renderer = Renderer(base, load_tools(prepared), prepared / TEMPLATE)
    rows = [renderer(row).ids for row in read_prepared(prepared / "validation.jsonl")]
    model = load_tuned_model(base, run / "train/adapter")
    with torch.inference_mode():
        reference = [log_softmax(model(torch.tensor([ids])).logits[0, :-1].float().numpy()) for ids in rows]
    figures = {}
    for key, file in files.items():
        losses, adapter_losses, divergences, same = [], [], [], []
        with Gguf(find_llama_cpp(), file, context=max(map(len, rows)), threads=2) as loaded:
            for ids, wanted in zip(rows, reference, strict=True):
                logprobs, at = log_softmax(loaded.logits(ids)[:-1]), np.arange(len(ids) - 1)
                losses.append(-logprobs[at, ids[1:]])
                adapter_losses.append(-wanted[at, ids[1:]])
                divergences.append((np.exp(wanted) * (wanted - logprobs)).sum(1))
                same.append(wanted.argmax(1) == logprobs.argmax(1))
        perplexity, adapter = (float(np.exp(np.concatenate(values).mean())) for values in (losses, adapter_losses))
        mean_divergence, same_share = (float(np.concatenate(values).mean()) for values in (divergences, same))
        figures[key] = (perplexity, adapter, mean_divergence, same_share)
    return figures


def log_softmax(logits: Any) -> Any:
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


if __name__ == "__main__":
    main()
