"""The loss on learned tokens against TRL's own, on the tiny Llama."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from tuneline.core.paths import ROOT
from tuneline.stages.train.loop.loss import IGNORED, MaskedLossTrainer

TINY = ROOT / "data/tiny"


def trainer(kind: type[SFTTrainer], folder: Path, accumulation: int) -> SFTTrainer:
    torch.manual_seed(0)
    rows = [list(range(20 + n, 40 + 2 * n)) for n in range(8)]
    labels = [[IGNORED] * (5 + n) + row[5 + n : -1] + [IGNORED] for n, row in enumerate(rows)]
    return kind(
        model=AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=3,
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            learning_rate=1e-4,
            max_length=None,
            use_cpu=True,
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"input_ids": rows, "labels": labels}),
        processing_class=AutoTokenizer.from_pretrained(TINY),
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_steps_are_those_of_trl(tmp_path: Path, accumulation: int) -> None:
    found: list[list[Any]] = []
    for kind in (SFTTrainer, MaskedLossTrainer):
        made = trainer(kind, tmp_path, accumulation)
        made.train()
        logged = [entry for entry in made.state.log_history if "loss" in entry]
        found.append([[entry[name] for name in ("loss", "grad_norm", "num_tokens")] for entry in logged])
    assert len(found[0]) == 3 and found[0] == [pytest.approx(row, rel=5e-3) for row in found[1]]
