"""What is decided about vLLM before one is started."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tuneline.configs.recipe import Recipe
from tuneline.core.errors import NotFound
from tuneline.core.paths import ROOT
from tuneline.engines.vllm import vllm_server
from tuneline.engines.vllm.compilation import choose_attention_arguments
from tuneline.engines.vllm.lora_ranks import smallest_max_lora_rank
from tuneline.engines.vllm.tool_parsers import tool_parser_for
from tuneline.stages.evaluate.clients import target_engines
from tuneline.stages.evaluate.clients.target_engines import engine_name, substitute_warning

TINY = ROOT / "data/tiny"
LOG = """(APIServer pid=1) WARNING 11-21 15:17:51 [utils.py:255] limit errors like `OSError: [Errno 24] Too many
(Worker pid=3) ERROR 11-21 15:19:06 [executor.py:953] ValueError: Available memory on node 0 is less than desired
(EngineCore pid=2) ERROR 11-21 15:19:11 [core.py:1510] ValueError: Available memory on node 0 is less than desired
(APIServer pid=1)     raise RuntimeError(
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def recipe(**serve: Any) -> Recipe:
    return Recipe.model_validate({"data": {"sources": [{"path": "README.md"}]}, "serve": serve})


def test_the_parser_is_the_bases() -> None:
    assert tool_parser_for("qwen-2.5-7b-instruct", TINY) == "hermes"
    assert tool_parser_for("acme/unknown", TINY) == "llama3_json"  # its tokenizer has the tag of a call


def test_a_tokenizer_without_the_tag_has_no_parser(tmp_path: Path) -> None:
    assert tool_parser_for("acme/unknown", tmp_path) is None
    assert "--tool-call-parser" not in vllm_server.serve_arguments(TINY, "t", 1, 256, None, {}, 8, 1, True)


@pytest.mark.parametrize(
    ("ranks", "wanted"), [({"r": 8}, 8), ({"r": 12}, 16), ({"r": 8, "rank_pattern": {"q": 65}}, 128)]
)
def test_vllm_is_told_the_least_rank_that_takes_an_adapter(tmp_path: Path, ranks: dict[str, Any], wanted: int) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(ranks))
    assert smallest_max_lora_rank(tmp_path) == wanted


def test_what_serves_is_what_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(vllm_server.EXECUTABLE, str(shutil.copy(TINY / "README.md", tmp_path / "vllm")))
    for form in ("adapter", "merged"):
        found = [engine_name(recipe(form=form), target) for target in ("base", "tuned-F16", "tuned-Q4_K_M")]
        assert found == ["vLLM", "vLLM", "llama.cpp"] and substitute_warning(recipe(form=form)) is None
    assert engine_name(recipe(form="gguf"), "base") == "llama.cpp"


def test_where_there_is_no_vllm_another_stands_in_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (vllm_server, target_engines):
        monkeypatch.setattr(module, "find_vllm", lambda: None)
    assert engine_name(recipe(form="adapter"), "tuned-F16") == "llama.cpp"
    assert (
        "docs/vllm.md" in (substitute_warning(recipe(form="adapter")) or "")
        and substitute_warning(recipe(form="gguf")) is None
    )
    with (
        pytest.raises(NotFound, match=vllm_server.EXECUTABLE),
        vllm_server.start_vllm(TINY, alias="t", log=Path("/dev/null"), context=256),
    ):
        pass


def test_why_it_does_not_start_is_found_above_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    told = vllm_server._append_causes("ended with 1", tmp_path / "log")
    assert told == "ended with 1\ncause: ValueError: Available memory on node 0 is less than desired"


def test_nothing_is_compiled_by_an_nvcc_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a B200 vLLM takes FlashInfer's attention first; without nvcc it is told to take the one in its wheel."""
    environment = vllm_server._environment()
    assert environment["VLLM_USE_FLASHINFER_SAMPLER"] == "0" and environment["VLLM_USE_DEEP_GEMM"] == "0"
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "1")
    assert vllm_server._environment()["VLLM_USE_FLASHINFER_SAMPLER"] == "1"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    for capability, chosen in (("9.0", []), ("10.0", ["--attention-backend", "FLASH_ATTN"])):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho {capability}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        assert choose_attention_arguments() == chosen
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").touch()
    assert choose_attention_arguments() == []
