"""Quantized checkpoints of the tiny base and a random adapter, made by the real tools and held against 16 bit."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.conftest import CACHE
from tests.line.test_convert import RECIPE, TEMPLATE, Inputs, adapter, prepared
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import StageFailed
from tuneline.stages import convert as package
from tuneline.stages.convert import convert
from tuneline.stages.convert.folders import tensorrt
from tuneline.stages.convert.folders.environments import environment_python

__all__ = ["adapter"]  # a fixture

KINDS = ("AWQ", "GPTQ", "INT8", "FP8", "NF4", "LLM.int8", "TensorRT-LLM")
FOLDERS = {
    "types": ("F16",),
    "folders": (*KINDS, "ONNX"),
    "calibration_tokens": 512,
    "verify_tokens": 256,
    "top_1_floor": 0.0,
}
RECIPE_FOR_VLLM = RECIPE.model_copy(update={"convert": RECIPE.convert.model_copy(update=FOLDERS)})


def inputs_with_text(home: Path, adapter: Path) -> Inputs:
    row = {"messages": [{"role": role, "content": f"Hello from the {role}."} for role in ("user", "assistant")]}
    return prepared(home, adapter, f"{json.dumps(row)}\n" * 20)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Artifact:
    inputs = inputs_with_text(tmp_path_factory.mktemp("folders"), adapter)
    os.environ.setdefault("TUNELINE_CACHE", CACHE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "open_base", lambda recipe: inputs.base)
        return convert(RECIPE_FOR_VLLM, inputs.run)


@pytest.mark.slow
def test_each_folder_is_what_vllm_loads(converted: Artifact) -> None:
    """Four bits and eight, in the formats vLLM knows; with the run's template, and no 16-bit checkpoint left."""
    methods = {}
    for kind in KINDS:
        config = json.loads((converted.path / f"tuned-{kind}/config.json").read_text())
        quantized = config["quantization_config"]
        methods[kind] = quantized["quant_method"], quantized.get("format")
        assert (converted.path / f"tuned-{kind}/chat_template.jinja").read_text() == TEMPLATE
        assert config["dtype"] == "bfloat16"
    assert methods == {
        "AWQ": ("compressed-tensors", "pack-quantized"),
        "GPTQ": ("compressed-tensors", "pack-quantized"),
        "INT8": ("compressed-tensors", "int-quantized"),
        "FP8": ("compressed-tensors", "float-quantized"),
        "NF4": ("bitsandbytes", None),
        "LLM.int8": ("bitsandbytes", None),
        "TensorRT-LLM": ("compressed-tensors", "float-quantized"),
    }
    assert not (converted.path / "merged").exists() and not (converted.path / "scratch").exists()


@pytest.mark.slow
def test_each_is_held_against_16_bit_and_in_the_sums(converted: Artifact) -> None:
    report = json.loads((converted.path / "verify.json").read_text())
    fidelity, folders = converted.metrics["fidelity"], converted.metrics["folders"]
    assert list(folders) == [f"tuned-{kind}" for kind in (*KINDS, "ONNX")] and fidelity == report["fidelity"]
    assert fidelity["merged"]["kl_mean_nats"] == 0 and fidelity["merged"]["top_1_agreement"] == 1
    # The same weights and text by another engine.
    assert fidelity["merged"]["perplexity"] == pytest.approx(fidelity["tuned-F16"]["perplexity"], rel=0.02)
    for kind in KINDS:
        assert 0 < fidelity[f"tuned-{kind}"]["kl_mean_nats"] < 1, kind
        checks = {check["check"] for check in report["checks"] if check["file"] == f"tuned-{kind}" and check["passed"]}
        assert checks == {"token_ids", "template", "stop_tokens", "fidelity"}
    eight, four = (
        min(fidelity[f"tuned-{k}"]["kl_mean_nats"] for k in ks) for ks in (("INT8", "LLM.int8"), ("NF4", "GPTQ"))
    )
    assert eight < four
    assert all(f"tuned-{kind}/model.safetensors" in (converted.path / "SHA256SUMS").read_text() for kind in KINDS)


@pytest.mark.slow
def test_onnxruntime_answers_as_the_merged_checkpoint(converted: Artifact) -> None:
    report = json.loads((converted.path / "verify.json").read_text())
    checks = {check["check"]: check for check in report["checks"] if check["file"] == "tuned-ONNX"}
    assert all(check["passed"] for check in checks.values())
    assert set(checks) == {"token_ids", "template", "stop_tokens", "fidelity", "greedy"}
    assert re.match(r"[1-9]\d+ tokens of 8 answers of onnxruntime; 0 differ", checks["greedy"]["detail"])
    assert converted.metrics["fidelity"]["tuned-ONNX"]["kl_mean_nats"] < 1e-5
    assert "tuned-ONNX/model.onnx" in (converted.path / "SHA256SUMS").read_text()


@pytest.mark.slow
def test_what_trtllm_serve_takes_has_its_command_and_what_it_would_misread_is_refused(converted: Artifact) -> None:
    folder = converted.path / "tuned-TensorRT-LLM"
    command = (folder / "serve.sh").read_text()
    assert 'exec trtllm-serve "$(dirname "$0")"' in command and "--max_seq_len 2048" in command
    assert os.access(folder / "serve.sh", os.X_OK) and tensorrt.explain_refusal(folder) is None
    assert "weights of 8 bits, float, by tensor" in (tensorrt.explain_refusal(converted.path / "tuned-FP8") or "")
    assert "weights of 8 bits, int, by channel" in (tensorrt.explain_refusal(converted.path / "tuned-INT8") or "")
    assert tensorrt.explain_refusal(converted.path / "tuned-NF4") == "quant_method bitsandbytes"


def test_without_text_there_is_nothing_to_calibrate_on(
    tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = prepared(tmp_path, adapter)
    monkeypatch.setattr(package, "open_base", lambda recipe: inputs.base)
    with pytest.raises(StageFailed, match=r"convert\.folders: the run has no conversations to calibrate on"):
        convert(RECIPE_FOR_VLLM, inputs.run)


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(StageFailed, match=r"pip install(.|\n)*No matching distribution found for"):
        environment_python("compress")
    assert not list(tmp_path.glob("*/made"))
