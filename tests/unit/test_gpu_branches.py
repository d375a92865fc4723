"""Branches that only a GPU takes, taken as far as a CPU can, and the table of them in docs/gpu-branches.md."""

import ast
import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.optim import PagedAdamW8bit
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.line import small
from tuneline.core.events import Events, read_events
from tuneline.core.paths import ROOT
from tuneline.stages import preflight
from tuneline.stages.convert import reference_model
from tuneline.stages.convert.folders import compressor
from tuneline.stages.evaluate.clients import target_engines
from tuneline.stages.train import launcher, worker
from tuneline.stages.train.distributed import device_memory, fsdp2, process_group
from tuneline.stages.train.distributed.placement import STRATEGY
from tuneline.stages.train.job import TrainingJob, write_job
from tuneline.stages.train.loop import arguments, fit, flops
from tuneline.stages.train.model import base_model

PAGE = ROOT / "docs/gpu-branches.md"
GIB = 2**30
HARDWARE = re.compile(
    r"torch\.(?:cuda|accelerator)\.|\bon_gpu\b|gpu_bytes|/dev|run_nvidia_smi|which\(.nvidia|device_count|== .cuda|nccl"
    r"|LOCAL_RANK|WORLD_SIZE|get_world_size\(\)|is_sharded\(\)"
)
"""What code that depends on a GPU, on how many there are or on their memory looks at."""
FOLDERS = ("core", "configs", "engines", "stages", "endpoints", "volumes", "images")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A machine with four H100, as torch reports it; what was set on it."""
    done: dict[str, Any] = {}
    fake = {
        "is_available": lambda: True,
        "device_count": lambda: 4,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: "NVIDIA H100 80GB HBM3",
        "get_device_properties": lambda _: SimpleNamespace(total_memory=80 * GIB),
        "max_memory_allocated": lambda: 30e9,
        "set_device": lambda device: done.update(device=device),
        "empty_cache": lambda: done.update(emptied=True),
        "reset_peak_memory_stats": lambda: done.update(reset=True),
    }
    for name, function in fake.items():
        monkeypatch.setattr(torch.cuda, name, function)
    yield done


class Stop(Exception):
    """Ends a call where the GPU would begin."""


def stop_with(seen: dict[str, Any]) -> Any:
    def stop(*words: Any, **named: Any) -> Any:
        seen.update(named)
        raise Stop

    return stop


def build_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **train: Any) -> dict[str, Any]:
    monkeypatch.setattr(arguments, "SFTConfig", lambda **named: named)  # whose own checks ask the GPU
    layers: Any = torch.nn.ModuleList([type("LlamaDecoderLayer", (torch.nn.Module,), {})()])
    built: Any = arguments.build_training_arguments(small.recipe(tmp_path, **train), tmp_path, 64, layers)
    return dict(built)


def test_a_gpu_trains_in_bf16_and_recomputes_activations(
    gpu: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = build_arguments(tmp_path, monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = build_arguments(tmp_path, monkeypatch)
    assert {key: (on_cpu[key], on_gpu[key]) for key in on_gpu if on_cpu[key] != on_gpu[key]} == {
        "bf16": (False, True),
        "tf32": (None, True),
        "use_cpu": (True, False),
        "optim": ("adamw_torch", "paged_adamw_8bit"),
        "activation_checkpointing": (False, True),
    }


def test_a_sharded_model_recomputes_once_and_not_twice(
    gpu: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers refuses its own activation checkpointing beside FSDP's."""
    monkeypatch.setenv(STRATEGY, "fsdp2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    sharded = build_arguments(tmp_path, monkeypatch)
    assert sharded["fsdp_config"]["activation_checkpointing"] and not sharded["activation_checkpointing"]
    assert (sharded["optim"], sharded["per_device_train_batch_size"]) == ("adamw_torch_fused", 2)


@pytest.mark.parametrize(
    ("train", "dtype", "attention"),
    [
        ({}, torch.bfloat16, None),
        ({"method": "lora", "packing": True}, torch.bfloat16, "packed_varlen"),
        ({"method": "full"}, torch.float32, None),
    ],
)
def test_a_gpu_holds_the_base_in_16_bit_on_itself(
    gpu: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train: dict[str, Any],
    dtype: torch.dtype,
    attention: str | None,
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(base_model.AutoModelForCausalLM, "from_pretrained", stop_with(seen))
    monkeypatch.setattr(base_model, "register_packed_attention", lambda _: "packed_varlen")  # needs its kernel
    with pytest.raises(Stop):
        base_model.load_model(
            small.recipe(tmp_path, **train).train, small.BASE, None, Events(tmp_path, "train"), sharded=False
        )
    assert (seen["dtype"], seen["attn_implementation"]) == (dtype, attention)
    assert seen["device_map"] == {"": torch.device("cuda", 0)}
    if quantization := seen["quantization_config"]:
        assert quantization.bnb_4bit_quant_storage == quantization.bnb_4bit_compute_dtype == torch.bfloat16


def test_4_bit_weights_stored_and_computed_in_bf16_give_the_logits_of_those_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The formats of a GPU, on the CPU."""

    def compute() -> torch.Tensor:
        torch.manual_seed(0)
        model: Any = base_model.load_model(
            small.recipe(tmp_path).train, small.BASE, None, Events(tmp_path, "train"), sharded=False
        )
        with torch.no_grad():
            logits: torch.Tensor = model.eval()(input_ids=torch.arange(1, 33)[None]).logits
        return logits.float()

    in_bytes = compute()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(base_model, "get_device", lambda: torch.device("cpu"))
    assert (compute() - in_bytes).abs().mean() < 0.02 * in_bytes.abs().mean()


def test_lora_plus_takes_the_optimizer_of_one_gpu(gpu: dict[str, Any], tmp_path: Path) -> None:
    settings = small.recipe(tmp_path, lora_plus=8.0).train
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(small.BASE), LoraConfig(task_type="CAUSAL_LM"))
    optimizer = arguments.make_lora_plus_optimizer(model, settings=settings)
    assert isinstance(optimizer, PagedAdamW8bit)
    rates = {group["lr"] for group in optimizer.param_groups if group["params"]}
    assert rates == {settings.learning_rate, 8 * settings.learning_rate}


def test_a_worker_takes_its_own_gpu_before_it_joins_the_others(
    gpu: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[Any] = []
    monkeypatch.setattr(process_group, "join_process_group", lambda: order.append(gpu["device"]))
    monkeypatch.setattr(fsdp2, "adapt_accelerate", lambda *, on_cpu: order.append(on_cpu))
    monkeypatch.setattr(fit, "fit", lambda job, events: {"train_loss": 1.0})
    monkeypatch.setattr(worker, "bind_to_parent", lambda _: None)
    for name, value in {"LOCAL_RANK": "3", "RANK": "0", STRATEGY: ""}.items():
        monkeypatch.setenv(name, value)
    recipe = small.recipe(tmp_path, compute={"strategy": "fsdp2"})
    (tmp_path / "pids").mkdir()
    write_job(tmp_path / "job.json", TrainingJob(recipe, small.BASE, tmp_path, tmp_path, tmp_path), tmp_path / "out")
    assert worker.main(tmp_path / "job.json") == 0
    assert order == [3, False]
    assert json.loads((tmp_path / "out").read_text()) == {"metrics": {"train_loss": 1.0}}


def test_processes_join_by_nccl_on_gpus_and_by_gloo_on_cpus(
    gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backends: list[str] = []
    monkeypatch.setattr(process_group.dist, "init_process_group", lambda backend, timeout: backends.append(backend))
    process_group.join_process_group()
    assert process_group.get_device() == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    process_group.join_process_group()
    assert backends == ["nccl", "gloo"] and process_group.get_device() == torch.device("cpu")


def test_a_process_for_each_gpu_is_started(
    gpu: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_workers(job: Path, processes: int) -> None:
        (job.parent / "outcome.json").write_text(json.dumps({"metrics": {"processes": processes}}))

    monkeypatch.setattr(launcher, "_run_workers", run_workers)
    job = TrainingJob(small.recipe(tmp_path), small.BASE, tmp_path, tmp_path / "train", tmp_path)
    job.folder.mkdir()
    assert launcher.launch(job) == {"processes": 4}
    (note,) = [event["text"] for event in read_events(tmp_path)]
    assert note.startswith("4 processes, ddp, 2 rows at a time: planned ") and "of 86 GB a GPU" in note


def test_preflight_measures_a_gpus_memory(tmp_path: Path) -> None:
    step = {"kind": "metrics", "tokens_per_second": 1000.0}
    steps = [step | {"time": f"2026-11-30T10:00:{at:02}+00:00", "memory_gb": 29.0 + at} for at in (1, 2, 3)]
    plan: Any = SimpleNamespace(steps=100, rows=SimpleNamespace(validation=8))
    measure = partial(preflight._measured_values, small.recipe(tmp_path), plan, steps, 50.0, 0.0)
    assert (measure(on_gpu=True)["memory_gb"], measure(on_gpu=False)["memory_gb"] < 32) == (32.0, True)


def test_memory_is_what_torch_reports(gpu: dict[str, Any]) -> None:
    assert (device_memory.read_gpu_bytes(), device_memory.read_peak_gpu_gb()) == (80 * GIB, 30.0)
    device_memory.free_cached_memory()
    assert gpu == {"emptied": True, "reset": True}
    assert device_memory.describe_out_of_memory(torch.OutOfMemoryError("")) == "30.0 GB in use at most"


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_peak_is_of_this_very_card(
    gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str, teraflops: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    assert flops.read_peak_flops() == (None if teraflops is None else teraflops * 1e12)


def test_the_reference_model_is_on_the_gpu_and_never_too_large_for_it(
    gpu: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        os.truncate(file.fileno(), 140 * 10**9)  # 70 B parameters, of which no byte is on the disk
    assert reference_model.explain_too_large(tmp_path) is None
    devices: list[str] = []
    model = SimpleNamespace(to=lambda device: devices.append(device) or model, eval=lambda: model)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **named: model)
    monkeypatch.setattr("peft.PeftModel.from_pretrained", lambda *_: model)
    assert reference_model.load_tuned_model(small.BASE, tmp_path) is model and devices == ["cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "need a GPU" in str(reference_model.explain_too_large(tmp_path))


def test_logits_of_a_folder_are_computed_on_all_gpus(
    gpu: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", stop_with(seen))
    with pytest.raises(Stop):
        compressor.write_logits(str(small.BASE), "float32", [[1, 2]], str(tmp_path / "logits"))
    assert seen["device_map"] == "auto"


@pytest.mark.parametrize(
    ("asked", "present", "used"), [("H100:4", 2, 2), ("H100:2", 8, 2), (None, 8, 1), ("A10", 0, 1)]
)
def test_vllm_takes_the_gpus_that_are_asked_for_and_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str | None, present: int, used: int
) -> None:
    class Devices:
        def glob(self, _: str) -> list[int]:
            return list(range(present))

    monkeypatch.setattr(target_engines, "Path", lambda _: Devices())
    engines: Any = SimpleNamespace(_recipe=small.recipe(tmp_path, compute={"evaluate": {"gpu": asked}}))
    assert target_engines.Engines._gpus(engines) == used


def read_table() -> list[list[str]]:
    rows = [line.strip().strip("|").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


def find_branches() -> set[tuple[str, str]]:
    """File and innermost function of every line that looks at the hardware."""
    return {
        (str(file.relative_to(ROOT)), function)
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*.py")
        for function in functions_with_branches(file.read_text())
    }


def functions_with_branches(source: str) -> Iterator[str]:
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    for number, line in enumerate(source.splitlines(), 1):
        inside = [f for f in functions if f.body[0].lineno <= number <= (f.end_lineno or 0)]
        code = line.partition("#")[0]
        if inside and HARDWARE.search(code) and not re.match(r'\s*("""|Returns?\b)|.*"""$', line):
            yield max(inside, key=lambda f: f.lineno).name


def test_the_table_has_every_branch_and_its_tests_exist() -> None:
    rows = read_table()
    listed = {(row[0].strip("`"), row[1].strip("`")) for row in rows}
    found = find_branches()
    assert found - listed == set(), "not in docs/gpu-branches.md"
    assert all(f"def {function}(" in (ROOT / file).read_text() for file, function in listed)
    assert all(len(row) == 6 for row in rows)
    for row in rows:
        for test in re.findall(r"`(\S+\.py)(?:::(\w+))?`", row[4]):
            file, name = test
            assert f"def {name or 'test_'}" in (ROOT / "tests" / file).read_text(), row
        assert "`" in row[4] or row[4] == "none"
