"""Training on the CPU against TRL's SFTTrainer: with its defaults, and with our settings. Learned tokens per second.

Chat rows whose lengths are the quantiles of one log-normal distribution (median 180 tokens, sigma 0.9, cut at 1,024);
the second half of each is learned. The same rows, model (data/tiny with a LoRA of rank 16), fp32, eight rows a step, no
activation checkpointing; the sides take turns, after a round that does not count.

    python benchmarks/train_cpu.py [--rounds 3] [--rows 96]
"""

import argparse
import math
import random
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])

import torch
from datasets import Dataset
from datasets import disable_progress_bars as quiet_datasets
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from benchmarks.common.rounds import ROOT, in_turn, medians, print_result, threads
from tuneline.configs.recipe import Recipe
from tuneline.core.events import Events
from tuneline.stages.train.loop.arguments import build_training_arguments
from tuneline.stages.train.loop.callbacks import MetricsReport
from tuneline.stages.train.loop.loss import IGNORED
from tuneline.stages.train.loop.monitoring import Alerts, DivergenceStop
from tuneline.stages.train.loop.trainer import Trainer

BASE = ROOT / "data/tiny"
MEDIAN, SIGMA, LONGEST = 180, 0.9, 1024
BATCH_ROWS, SEED = 8, 20261121
TARGETS = {"tuneline_over_trl_defaults": 1.5, "tuneline_over_trl_with_our_settings": 0.95}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=96)
    options = parser.parse_args()
    torch.set_num_threads(threads())
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    quiet_datasets()
    rows, learned = random_rows(options.rows)
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: partial(training_seconds, trainer) for name, trainer in trainers(rows, Path(folder)).items()}
        seconds = medians(in_turn(sides, options.rounds))
    speed = {name: learned / value for name, value in seconds.items()}
    ratios = {
        "tuneline_over_trl_defaults": speed["tuneline"] / speed["trl_defaults"],
        "tuneline_over_trl_with_our_settings": speed["tuneline"] / speed["trl_with_our_settings"],
    }
    for name, value in speed.items():
        print(f"{name:<24} {value:8.0f} learned tokens/s")
    for name, ratio in ratios.items():
        print(f"{name:<40} {ratio:.2f} (target {TARGETS[name]})")
    print_result(
        "train_cpu",
        ratios["tuneline_over_trl_defaults"],
        TARGETS["tuneline_over_trl_defaults"],
        met=all(ratios[name] >= target for name, target in TARGETS.items()),
        threads=threads(),
        rows=options.rows,
        rounds=options.rounds,
        learned_tokens=learned,
        learned_tokens_per_second={name: round(value, 1) for name, value in speed.items()},
        ratios={name: round(ratio, 3) for name, ratio in ratios.items()},
        targets=TARGETS,
    )


def training_seconds(trainer: SFTTrainer) -> float:
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started


def random_rows(number: int) -> tuple[Dataset, int]:
    """Return rows in a random order, and the number of tokens of them that count in the loss."""
    spread = statistics.NormalDist(math.log(MEDIAN), SIGMA)
    lengths = [min(LONGEST, max(8, round(math.exp(spread.inv_cdf((i + 0.5) / number))))) for i in range(number)]
    rng = random.Random(SEED)
    rng.shuffle(lengths)
    ids = [[rng.randrange(10, 2000) for _ in range(length)] for length in lengths]
    labels = [[IGNORED] * (len(row) // 2) + row[len(row) // 2 :] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels}), sum(len(row) - len(row) // 2 for row in ids)


def trainers(rows: Dataset, folder: Path) -> dict[str, SFTTrainer]:
    recipe = Recipe.model_validate(
        {
            "data": {"sources": [{"grammar": "unused", "rows": 1}]},
            "train": {"method": "lora", "rank": 16, "batch_rows": BATCH_ROWS, "save_steps": 10**6},
        }
    )
    never = {"save_strategy": "no", "eval_strategy": "no"}
    defaults = SFTConfig(
        output_dir=str(folder / "defaults"),
        max_steps=len(rows) // BATCH_ROWS,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        **never,
    )

    def ours(name: str, model: Any) -> SFTConfig:
        arguments = build_training_arguments(recipe, folder / name, len(rows), model)
        for key, value in never.items():
            setattr(arguments, key, value)
        return arguments

    made: dict[str, SFTTrainer] = {}
    for name in ("trl_defaults", "trl_with_our_settings", "tuneline"):
        model, common = adapted(), {"train_dataset": rows, "processing_class": AutoTokenizer.from_pretrained(BASE)}
        if name == "tuneline":
            made[name] = Trainer(
                batch_rows=BATCH_ROWS, make_optimizer=None, model=model, args=ours(name, model), **common
            )
            events = Events(folder, "train")
            for callback in (
                MetricsReport(events, 1.0, lambda: made["tuneline"].loss_tokens),
                DivergenceStop(),
                Alerts(recipe.watch, events),
            ):
                made[name].add_callback(callback)
        else:
            arguments = defaults if name == "trl_defaults" else ours(name, model)
            made[name] = SFTTrainer(model=model, args=arguments, **common)
        made[name].remove_callback(PrinterCallback)
    return made


def adapted() -> Any:
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM"))


if __name__ == "__main__":
    main()
