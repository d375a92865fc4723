"""What the deployed endpoint's GPU has no room for is refused before it is promoted; what has room gets its share."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.runs import make_run
from tuneline.cli import app
from tuneline.configs.cloud import Endpoint
from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.paths import ROOT
from tuneline.engines.vllm import vllm_server
from tuneline.stages.plan import serving
from tuneline.stages.plan.base_shape import read_base_shape
from tuneline.stages.plan.endpoint_fit import explain_other_base, find_endpoint_problems
from tuneline.volumes import endpoint_capacity

RECIPES = ROOT / "configs/recipes"


def merged(gpu: str, models: int = 1) -> Endpoint:
    return Endpoint.model_validate({"form": "merged", "gpu": gpu, "models": models})


@pytest.mark.parametrize(
    ("gpu", "models", "share", "fits"),
    [("A10", 1, 0.45, False), ("H100", 1, 0.45, True), ("H100", 4, 0.18, False), ("H100:2", 4, 0.18, True)],
)
def test_each_vllm_has_its_share_and_the_next_version_too(gpu: str, models: int, share: float, fits: bool) -> None:
    """8B in 16 bit: 16 GB. Two of them are on the GPU while a new version starts; vLLM alone would take 90 %."""
    recipe = load_recipe(RECIPES / "llama-3.1-8b.yaml", ["serve.form=merged"])
    endpoint = merged(gpu, models)
    assert endpoint.gpu_share == share
    problems = find_endpoint_problems(recipe, endpoint, read_base_shape(recipe))
    assert (problems == ()) == fits
    assert fits or "16.1 GB of weights do not fit" in problems[0]


def test_a_second_base_of_adapters_is_named() -> None:
    endpoint = Endpoint.model_validate({"form": "adapter", "gpu": "H100", "base": "llama-3.1-8b-instruct"})
    assert endpoint.gpu_share == 0.9
    commit = "0" * 40
    pinned = endpoint.model_copy(update={"base": f"meta-llama/Llama-3.1-8B-Instruct@{commit}"})
    same = load_recipe(RECIPES / "llama-3.1-8b.yaml")
    assert explain_other_base(same, endpoint) is None
    assert explain_other_base(same.model_copy(update={"revision": commit}), pinned) is None
    for recipe, wanted in ((load_recipe(RECIPES / "mistral-7b.yaml"), endpoint), (same, pinned)):
        assert "endpoint.base in configs/cloud.yaml" in (explain_other_base(recipe, wanted) or "")


def test_the_plan_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(RECIPES / "production.yaml")
    shape = read_base_shape(recipe)
    assert not any("endpoint" in problem for problem in serving.plan_serving(recipe, shape).refused)
    monkeypatch.setattr(serving, "cloud", lambda: type("Settings", (), {"endpoint": merged("H100:2")}))
    assert any("141.1 GB of weights do not fit" in problem for problem in serving.plan_serving(recipe, shape).refused)


def test_promotion_is_refused_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("runs", "models", "policy"):
        monkeypatch.setenv(f"TUNELINE_{folder.upper()}", str(tmp_path / folder))
    settings: dict[str, Any] = load_recipe(RECIPES / "micro.yaml").model_dump() | {"serve": {"form": "adapter"}}
    make_run(tmp_path / "runs" / "other", Recipe.model_validate(settings))
    endpoint = Endpoint.model_validate({"form": "adapter", "gpu": "A10", "base": "llama-3.1-8b-instruct"})
    with pytest.raises(
        BadRequest, match="other: base: tiny@None: the endpoint serves adapters of llama-3.1-8b-instruct"
    ):
        endpoint_capacity.refuse_unless_endpoint_fits(endpoint, "other", "router")
    endpoint_capacity.refuse_unless_endpoint_fits(endpoint.model_copy(update={"base": "tiny"}), "other", "router")
    endpoint_capacity.refuse_unless_endpoint_fits(endpoint, "nothing", "router")  # `promote` says that it is not there


def test_one_more_merged_model_than_the_gpu_is_shared_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path))
    current = type("Version", (), {"form": "merged"})
    monkeypatch.setattr(
        endpoint_capacity, "read_promotions", lambda: {"router": type("Promotion", (), {"current": current})}
    )
    assert endpoint_capacity._explain_too_many(merged("H100"), "router") is None
    assert "chat, router: endpoint.models" in (endpoint_capacity._explain_too_many(merged("H100"), "chat") or "")


def test_a_server_is_told_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = tmp_path / "vllm"
    executable.write_text('#!/bin/sh\necho "$@"\nexit 1\n')
    executable.chmod(0o755)
    monkeypatch.setenv(vllm_server.EXECUTABLE, str(executable))
    for share in ("", "0.45"):
        monkeypatch.setenv(vllm_server.GPU_SHARE, share)
        log = tmp_path / "log"
        with pytest.raises(StageFailed), vllm_server.start_vllm(tmp_path, alias="t", log=log, context=256):
            pass
        assert ("--gpu-memory-utilization 0.45" in log.read_text()) == bool(share)


def test_a_form_that_nobody_serves_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("runs", "models", "policy"):
        monkeypatch.setenv(f"TUNELINE_{folder.upper()}", str(tmp_path / folder))
    settings: dict[str, Any] = load_recipe(RECIPES / "micro.yaml").model_dump() | {"serve": {"form": "adapter"}}
    make_run(tmp_path / "runs" / "other", Recipe.model_validate(settings))
    with pytest.raises(
        BadRequest, match=r"serve.form is adapter, and the deployed endpoint serves gguf \(endpoint.form"
    ):
        endpoint_capacity.refuse_unless_endpoint_fits(Endpoint(), "other", "router")
    monkeypatch.setattr(vllm_server, "find_vllm", lambda: None)
    here = CliRunner().invoke(app, ["promote", "other", "--as", "router"])
    assert "docs/vllm.md" in str(here.exception) and "--modal" in str(here.exception)
    assert not (tmp_path / "policy").exists()
