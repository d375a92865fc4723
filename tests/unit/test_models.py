"""The registry of bases: counts against what was published and what Transformers builds, names, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuneline.configs.models import FAMILIES, read_shape, registry, resolve_key
from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadRecipe, NotFound
from tuneline.core.paths import ROOT
from tuneline.stages.fetch.bases import locate_base
from tuneline.stages.fetch.hub_source import HubSource
from tuneline.stages.plan.memory import count_adapter_parameters

SHAPES = registry().shapes


@pytest.mark.parametrize("name", SHAPES)
def test_the_shape_gives_the_published_number_of_parameters(name: str) -> None:
    shape = SHAPES[name]
    assert shape.published and shape.total / 1e9 == pytest.approx(shape.published, rel=0.005)


def test_active_parameters_are_those_the_publishers_name() -> None:
    assert SHAPES["llama-4-scout"].active / 1e9 == pytest.approx(17.2, rel=0.01)
    assert SHAPES["llama-4-maverick"].active / 1e9 == pytest.approx(17.2, rel=0.01)
    assert SHAPES["mixtral-8x7b"].active / 1e9 == pytest.approx(12.9, rel=0.01)
    assert SHAPES["llama-3-8b"].active == SHAPES["llama-3-8b"].total


def config_of(name: str) -> dict[str, Any]:
    """The shape as Transformers' configuration has it."""
    shape = SHAPES[name]
    config: dict[str, Any] = {
        "model_type": "llama4_text" if shape.family == "llama4" else shape.family,
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.expert_ffn or shape.ffn,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
    }
    if shape.experts:
        config |= {
            "intermediate_size_mlp": shape.ffn,
            "num_local_experts": shape.experts,
            "num_experts_per_tok": shape.experts_per_token,
            "interleave_moe_layer_step": shape.expert_every,
        }
    return config


def built(name: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):  # sizes alone, no memory
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config_of(name)))


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.family in FAMILIES])
def test_the_count_is_what_transformers_builds(name: str) -> None:
    assert sum(p.numel() for p in built(name).parameters()) == SHAPES[name].text


@pytest.mark.parametrize(("name", "rank"), [("llama-3-8b", 128), ("mistral-7b-v0.3", 16), ("tiny", 32)])
def test_adapter_parameters_are_what_peft_makes(name: str, rank: int) -> None:
    from peft import LoraConfig, get_peft_model

    modules = {"attention": ["q_proj", "k_proj", "v_proj", "o_proj"], "mlp": ["gate_proj", "up_proj", "down_proj"]}
    for targets in (["attention"], ["attention", "mlp"]):
        wanted = [module for target in targets for module in modules[target]]
        adapted = get_peft_model(built(name), LoraConfig(r=rank, target_modules=wanted))
        assert count_adapter_parameters(SHAPES[name], rank, targets) == adapted.get_nb_trainable_parameters()[0]  # type: ignore[operator]


def test_router_and_experts_of_scout_are_the_known_four_billion() -> None:
    assert count_adapter_parameters(SHAPES["llama-4-scout"], 128, ["router", "experts"]) / 1e9 == pytest.approx(
        3.96, rel=0.01
    )


@pytest.mark.parametrize(
    "name", ["tiny", "llama-3-8b", "llama-3-1b", "mistral-7b-v0.3", "llama-4-scout", "llama-4-maverick"]
)
def test_a_shape_is_read_from_a_config(name: str) -> None:
    read = read_shape(config_of(name))
    assert read is not None and (read.text, read.active) == (SHAPES[name].text, SHAPES[name].active)


def test_the_registry_knows_the_tiny_base_as_it_is_shipped() -> None:
    read = read_shape(json.loads((ROOT / "data/tiny/config.json").read_text()))
    assert read is not None and read.text == SHAPES["tiny"].text
    assert read_shape({"model_type": "llama"}) is None


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("Llama 4 Scout 8B", "llama-4-scout"),
        ("Llama 4 E 17B", "llama-4-maverick-instruct"),
        ("meta-llama/Llama-4-17B-Scout", "llama-4-scout-instruct"),
        ("3.3-7b", "llama-3.3-70b-instruct"),
        ("3.3-13b", "llama-2-13b-chat"),
        ("meta-llama/Llama-3.3-70B", "llama-3.3-70b-instruct"),
    ],
)
def test_a_name_that_never_was_is_answered_with_what_is(name: str, instead: str) -> None:
    with pytest.raises(NotFound, match="does not exist") as caught:
        resolve_key(name)
    assert instead in str(caught.value)
    with pytest.raises(NotFound, match="does not exist"):
        locate_base(Recipe.model_validate({"base": name, "revision": None, "data": {"sources": [{"path": __file__}]}}))


def test_names_are_taken_as_people_write_them_and_others_may_call_theirs_what_they_like() -> None:
    assert (
        resolve_key("Llama-3.1-8B-Instruct")
        == resolve_key("meta-llama/Llama-3.1-8B-Instruct")
        == "llama-3.1-8b-instruct"
    )
    assert resolve_key("llama-3.1-8b") != resolve_key("llama-3.1-8b-instruct")
    assert (
        registry().find("someone/Llama-3.1-8B") is None and registry().explain_missing("someone/Llama-3.3-8B") is None
    )
    with pytest.raises(NotFound, match="did you mean.*llama-3.1-8b"):
        resolve_key("llama-3.1-8bb")


def test_every_entry_has_a_shape_and_those_called_tested_are_in_the_line() -> None:
    assert all(model.shape in SHAPES for model in registry().models.values())
    assert [key for key, model in registry().models.items() if model.tested] == ["tiny"]
    assert all(resolve_key(name) == name for never in registry().never for name in never.instead)


def test_a_recipe_takes_a_name_of_the_registry(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    file = tmp_path / "mine.yaml"
    file.write_text(f"base: llama-3.1-8b-instruct\nrevision: {'a' * 40}\ndata: {{sources: [{{path: {rows}}}]}}\n")
    recipe = load_recipe(file)
    assert locate_base(recipe) == HubSource("meta-llama/Llama-3.1-8B-Instruct", "a" * 40)
    file.write_text(file.read_text().replace(f"revision: {'a' * 40}\n", ""))
    with pytest.raises(BadRecipe, match="git ls-remote https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct"):
        locate_base(load_recipe(file))


def test_metas_own_checkpoints_are_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "Llama-3.1-8B"
    folder.mkdir()
    for name in ("consolidated.00.pth", "params.json", "tokenizer.model"):
        (folder / name).write_bytes(b"x")
    data = {"sources": [{"path": __file__}]}
    for base in (folder, folder / "consolidated.00.pth"):
        with pytest.raises(BadRecipe, match="Meta's own format"):
            locate_base(Recipe.model_validate({"base": str(base), "data": data}))
