"""Two processes load a base that neither could hold: the files are read once, and each keeps its part."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.line import small
from tuneline.core.paths import ROOT


def make_base(folder: Path, layers: int) -> Path:
    """A base of many small matrices, so that a matrix in 32 bit is little of it."""
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=layers, num_attention_heads=8, vocab_size=1024
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder, max_shard_size="100MB")
    return folder


def run(module: str, processes: int, *words: str) -> None:
    """Run a module of ours alone or under torchrun."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [sys.executable, "-m", *(launcher if processes > 1 else []), module, *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["MALLOC_MMAP_THRESHOLD_"] = "65536"  # so that what is freed is no longer held
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def measure(base: Path, folder: Path, processes: int, **train: Any) -> list[dict[str, Any]]:
    """What each process measured of loading `base`."""
    folder.mkdir()
    recipe = small.recipe(folder, rank=1, **train).model_dump_json()
    run("tests.line.loading_worker", processes, str(base), str(folder), recipe)
    return [json.loads(file.read_text()) for file in sorted(folder.glob("peak-*.json"))]


@pytest.mark.parametrize("method", ["qlora", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_base_is_read_once_and_each_process_keeps_half(tmp_path: Path, method: str) -> None:
    base = make_base(tmp_path / "base", layers=2)
    (whole,) = measure(base, tmp_path / "whole", 1, method=method)
    shards = measure(base, tmp_path / "shards", 2, method=method)
    assert [shard["reads"] for shard in shards] == [whole["reads"], 0] and whole["reads"] == 2 * 9 + 3
    assert all(shard["held"] == pytest.approx(whole["held"] / 2, rel=0.01) for shard in shards)
    for shard in shards:
        assert shard["logits"] == pytest.approx(whole["logits"], abs=1e-4)


@pytest.mark.slow
def test_neither_of_two_processes_ever_holds_much_more_than_half(tmp_path: Path) -> None:
    """Measured by the kernel, from before loading until the model is sharded, with all that is held meanwhile."""
    base = make_base(tmp_path / "base", layers=88)
    (whole,) = measure(base, tmp_path / "whole", 1, targets=["attention"])
    peaks = [shard["peak"] for shard in measure(base, tmp_path / "shards", 2, targets=["attention"])]
    assert max(peaks) <= 0.6 * whole["peak"], (peaks, whole["peak"])


@pytest.mark.slow
def test_recomputed_layers_have_the_dropout_of_their_forward_pass(tmp_path: Path) -> None:
    """accelerate recomputes them with other masks, which no error tells: its gradients are of another loss."""
    run("tests.line.dropout_worker", 2, str(tmp_path), small.recipe(tmp_path, dropout=0.3).model_dump_json())
    gradients = json.loads((tmp_path / "gradients.json").read_text())
    assert max(map(abs, gradients["kept"])) > 1e-4
    assert gradients["ours"] == gradients["kept"]
    assert gradients["accelerate"] != pytest.approx(gradients["kept"], rel=0.01)
