"""Adapters that others made: what cannot be converted is refused by its setting, and nothing of theirs is run."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tuneline.cli import app
from tuneline.configs.file_hashes import hash_paths
from tuneline.configs.recipe import Recipe
from tuneline.configs.training import Train
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import BadRequest
from tuneline.core.paths import ROOT
from tuneline.stages.exchange import adoption
from tuneline.stages.exchange.adapter_folder import check_fit, normalize_settings, read_adapter

TINY = ROOT / "data/tiny"
SHAPE = json.loads((TINY / "config.json").read_text())
HIDDEN, LAYERS = SHAPE["hidden_size"], SHAPE["num_hidden_layers"]
RANK = 4


def write_adapter(folder: Path, layers: int = LAYERS, hidden: int = HIDDEN, **settings: Any) -> Path:
    """An adapter of the tiny base's output projections, as PEFT writes one."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    weights = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.o_proj"
        weights[f"{name}.lora_A.weight"] = random.normal(size=(RANK, hidden)).astype(np.float32)
        weights[f"{name}.lora_B.weight"] = np.zeros((hidden, RANK), np.float32)
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["o_proj"], "bias": "none"}
    config |= {"base_model_name_or_path": "acme/llama", "revision": None, "auto_mapping": None}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder


REFUSED: dict[str, Any] = {
    "another kind": ({"peft_type": "IA3"}, "peft_type: 'IA3'"),
    "a module of its own": ({"modules_to_save": ["score"]}, "modules_to_save: 'score'"),
    "an expression": ({"rank_pattern": {"(a+)+$": 8}}, r"rank_pattern: '\(a\+\)\+\$': an expression"),
    "another initialization": ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa'"),
    "Megatron's module": ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_config: cannot be converted"),
    "parameters": ({"target_parameters": ["mlp.experts"]}, "target_parameters: cannot be converted"),
    "no rank": ({"r": "16"}, "r: '16': a positive number"),
    "another rank": ({"r": 8}, "rank 4, but adapter_config.json says 8"),
    "DoRA without its weights": ({"use_dora": True}, "use_dora is True, its weights say otherwise"),
    "a bias": ({"bias": "all"}, "bias: 'all'"),
}


@pytest.mark.parametrize(("settings", "words"), REFUSED.values(), ids=REFUSED)
def test_settings_that_cannot_be_converted_are_named(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=words):
        read_adapter(write_adapter(tmp_path, **settings))


class Bomb:
    """A pickle of it leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_a_pickle_is_refused_and_never_loaded(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(BadRequest, match=r"adapter_model.safetensors: missing"):
        read_adapter(folder)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(BadRequest, match=r"adapter_model.bin: a pickle"):
        read_adapter(folder)
    done = CliRunner().invoke(app, ["adopt", str(folder), "--base", "tiny"])
    assert isinstance(done.exception, BadRequest) and not (tmp_path / "exploded").exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter")
    weights = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(BadRequest, match="bytes of"):
        read_adapter(folder)
    (folder / "adapter_config.json").write_text("[" * 500)
    with pytest.raises(BadRequest, match="adapter_config.json"):
        read_adapter(folder)
    with pytest.raises(BadRequest, match="no such folder"):
        read_adapter(tmp_path / "none")


def fit(adapter: Path, **recipe: Any) -> str | None:
    read = read_adapter(adapter)
    made = adoption.build_recipe(read, "tiny", None, None, "x").model_copy(update=recipe)
    return check_fit(read, made, Artifact(TINY, None))  # type: ignore[arg-type]  # only its files are read


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="was it trained on another base"):
        fit(write_adapter(tmp_path / "wide", hidden=2 * HIDDEN))
    with pytest.raises(BadRequest, match="which the base does not have"):
        fit(write_adapter(tmp_path / "deep", layers=LAYERS + 1))
    other = write_adapter(tmp_path / "other", revision="a" * 40)
    with pytest.raises(BadRequest, match="revision: trained on aaaaaaaaaaaa of acme/llama, not on bbbbbbbbbbbb"):
        fit(other, base="acme/llama", revision="b" * 40)
    assert fit(other, base="acme/llama", revision="a" * 40) is None
    remark = fit(other)
    assert remark and "acme/llama: taken to be tiny, as you say" in remark


def test_what_is_stored_names_modules_and_no_pattern_of_theirs(tmp_path: Path) -> None:
    hostile = {"target_modules": "(.*a)*$", "auto_mapping": {"parent_library": "os"}, "megatron_core": "os"}
    read = read_adapter(write_adapter(tmp_path / "a", **hostile, alpha_pattern={"layers.0.self_attn.o_proj": 2}))
    recipe = adoption.build_recipe(read, "tiny", None, None, "x")
    stored = normalize_settings(read, recipe, LAYERS)
    assert stored["target_modules"] == ["o_proj"]
    assert stored["alpha_pattern"] == {"model.layers.0.self_attn.o_proj": 2}
    assert stored.keys().isdisjoint({"auto_mapping", "megatron_core"})
    partly = read_adapter(write_adapter(tmp_path / "b", layers=1))
    assert normalize_settings(partly, recipe, LAYERS)["target_modules"] == ["model.layers.0.self_attn.o_proj"]
    assert (recipe.train.rank, recipe.train.alpha, recipe.train.targets) == (RANK, 8, ("attention",))


def test_runs_made_before_adoption_existed_stay_valid(tmp_path: Path) -> None:
    assert "adopted" not in hash_paths(Train())
    assert hash_paths(Train(adopted="0" * 64))["adopted"] == "0" * 64
    assert Recipe.model_validate({"data": {"sources": [{"path": "x"}]}}).train.adopted is None
