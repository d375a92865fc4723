"""Two processes on this machine's CPU: the losses of one, each with its share of the 4-bit base."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.line import small
from tests.unit import llama4
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT
from tuneline.stages.fetch import fetch
from tuneline.stages.train.distributed.placement import Placement, place

TWO = {"processes": 2, "strategy": "fsdp2", "micro_batch_rows": 4}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNELINE_MODELS", str(folder / "models"))
        fetch(small.recipe(folder), folder / "prepared")
        small.prepared(folder)
    small.train(folder, "one", small.recipe(folder))
    return folder


def test_fsdp2_in_two_processes_has_the_losses_of_one_and_half_the_base_each(here: Path) -> None:
    metrics = small.train(here, "sharded", small.recipe(here, compute=TWO))
    assert small.losses(here, "sharded") == pytest.approx(small.losses(here, "one"), abs=2e-3)
    assert len(small.losses(here, "sharded")) == 6
    (told,) = [
        e["text"] for e in small.events(here, "sharded", "note") if "FSDP2" in e["text"] and "4-bit" in e["text"]
    ]
    shares = [float(share) for share in re.findall(r"([\d.]+) %", told)]
    assert len(shares) == 2 and max(shares) <= 55
    one, two = (load_file(here / run / "train/adapter/adapter_model.safetensors") for run in ("one", "sharded"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        assert two[name].shape == weight.shape
        assert torch.allclose(two[name], weight, atol=2e-3), name
    assert metrics["steps"] == 6
    notes = [event["text"] for event in small.events(here, "sharded", "note")]
    assert not small.events(here, "sharded", "sample")
    assert notes.count("no samples are generated while the model is sharded") == 1


@pytest.mark.slow
def test_a_sharded_run_stopped_by_sigterm_goes_on_from_its_checkpoint(here: Path) -> None:
    wanted = small.recipe(here, compute=TWO, save_steps=1)
    command = "import sys; from tests.line import small; from pathlib import Path\n"
    command += "from tuneline.configs.recipe import Recipe\n"
    command += "small.train(Path(sys.argv[1]), 'stopped', Recipe.model_validate_json(sys.argv[2]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", command, str(here), wanted.model_dump_json()],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoints, deadline = here / "stopped/train/scratch/checkpoints", time.monotonic() + 600
    while not list(checkpoints.glob("*/whole.json")) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    told = child.communicate()[1]
    assert "interrupted at step" in told
    done = len(small.losses(here, "stopped"))
    assert 1 <= done < 6
    small.train(here, "stopped", wanted)
    assert len(small.losses(here, "stopped")) == 6
    assert small.losses(here, "stopped") == pytest.approx(small.losses(here, "one"), abs=2e-3)


def test_ddp_in_two_processes_has_the_losses_of_one(here: Path) -> None:
    small.train(here, "copied", small.recipe(here, compute=TWO | {"strategy": "ddp"}))
    assert small.losses(here, "copied") == pytest.approx(small.losses(here, "one"), abs=2e-3)
    assert [event["step"] for event in small.events(here, "copied", "sample")] == [3, 6]


@pytest.mark.slow
def test_two_nodes_have_the_losses_of_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--nnodes=2 --node-rank={} --master-addr=127.0.0.1 --master-port=29611"
    monkeypatch.setenv("TUNELINE_TORCHRUN", words.format(0))
    job = here / "nodes/train/scratch/job.json"
    join = (
        f"while [ ! -e {job} ]; do sleep 0.1; done; exec {sys.executable} -m torch.distributed.run {words.format(1)} "
    )
    join += f"--nproc-per-node=1 -m tuneline.stages.train.worker {job}"
    other = subprocess.Popen(["bash", "-c", join], env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    try:
        small.train(here, "nodes", small.recipe(here, compute=TWO | {"processes": 1}, max_steps=3))
        assert other.wait(60) == 0
    finally:
        other.kill()
    assert small.losses(here, "nodes")[:1] == pytest.approx(small.losses(here, "one")[:1], abs=2e-3)
    assert next(e["text"] for e in small.events(here, "nodes", "note")).startswith("2 processes, fsdp2")


@pytest.mark.slow
def test_llama_4s_experts_are_sharded_with_the_losses_of_one(here: Path) -> None:
    base = llama4.save_with_tokenizer(here / "llama4", small.BASE)
    wanted: dict[str, Any] = {"targets": ["attention", "experts"], "max_steps": 3}
    small.train(here, "alone", small.recipe(here, **wanted), base=base)
    small.train(here, "together", small.recipe(here, compute=TWO, **wanted), base=base)
    assert small.losses(here, "together") == pytest.approx(small.losses(here, "alone"), abs=2e-3)
    one, two = (load_file(here / run / "train/adapter/adapter_model.safetensors") for run in ("alone", "together"))
    assert {name: weight.shape for name, weight in two.items()} == {name: weight.shape for name, weight in one.items()}


def test_what_one_gpu_holds_is_copied_and_what_it_does_not_is_sharded(here: Path, tmp_path: Path) -> None:
    def placed(gib: float, processes: int = 2, **train: Any) -> Placement:
        recipe = small.recipe(here, batch_rows=32, **train)
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_tokens": 4096})})
        return place(recipe, tmp_path, tmp_path, processes, round(gib * 2**30))

    shape: dict[str, Any] = {"model_type": "llama", "num_hidden_layers": 80, "hidden_size": 8192, "vocab_size": 128256}
    shape |= {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 28672}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    assert (placed(80).strategy, placed(48).strategy, placed(80, method="lora").strategy) == ("ddp", "fsdp2", "fsdp2")
    assert 1 <= placed(80).rows < placed(180).rows <= 8  # as many as fit
    none = placed(24)
    assert (none.strategy, none.rows) == ("fsdp2", 1) and "too much" in none.reason
    with pytest.raises(BadRecipe, match=r"loading the base takes 2\d\.\d GB on each of 2 GPUs with method qlora"):
        placed(20)
    with pytest.raises(BadRecipe, match=r"loading the base takes .* GB on one GPU with method lora and strategy auto"):
        placed(80, processes=1, method="lora")
    experts = {"num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1}
    shape |= {"model_type": "llama4_text", "num_hidden_layers": 48, "hidden_size": 5120, "num_attention_heads": 40}
    shape |= {"intermediate_size": 8192, "intermediate_size_mlp": 16384, "vocab_size": 202048} | experts
    (tmp_path / "config.json").write_text(json.dumps(shape))
    everything = ["attention", "mlp", "router", "experts"]
    assert placed(80).strategy == "ddp"
    assert placed(80, rank=128, targets=everything).strategy == "fsdp2"  # 44 GB of adapter beside the base
