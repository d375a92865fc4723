"""Targets by meaning: what they stand for in each architecture, and what an architecture lacks."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tuneline.configs.training import Train
from tuneline.core.errors import BadRecipe
from tuneline.stages.train.model.adapter_targets import check_trainable, resolve_targets

LLAMA = [f"model.layers.{layer}.self_attn.{p}_proj" for layer in range(2) for p in "qkvo"]
LLAMA += [f"model.layers.{layer}.mlp.{p}_proj" for layer in range(2) for p in ("gate", "up", "down")]


def base(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_llama_keeps_the_plain_names_that_other_programs_read() -> None:
    found = resolve_targets("llama", ("attention", "mlp"), LLAMA, [])
    assert found.modules == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert (found.parameters, found.counts) == (None, {"attention": 8, "mlp": 6})


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_what_an_architecture_lacks_is_refused_with_what_it_has(tmp_path: Path, kind: str) -> None:
    assert check_trainable(base(tmp_path, model_type=kind), Train()) == kind
    with pytest.raises(BadRecipe, match=rf"train.targets: experts: the base is a {kind}, which has attention, mlp"):
        check_trainable(base(tmp_path, model_type=kind), Train(targets=("attention", "experts")))


def test_an_unknown_architecture_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="architecture 'gemma3'; known are llama, mistral"):
        check_trainable(base(tmp_path, model_type="gemma3"), Train())


def test_a_vision_tower_is_never_adapted() -> None:
    inside = "language_model.model.layers.0.self_attn.q_proj"
    outside = "vision_model.model.layers.0.self_attn.q_proj"
    assert resolve_targets("llama4", ("attention",), [inside, outside], []).counts == {"attention": 1}
    with pytest.raises(BadRecipe, match="attention: the base, a llama4, has none"):
        resolve_targets("llama4", ("attention",), [outside], [])


def test_the_router_alone_needs_no_modules() -> None:
    found = resolve_targets("llama4", ("router",), [], ["model.layers.0.feed_forward.router.weight"])
    assert (found.modules, found.parameters) == (None, ["feed_forward.router.weight"])


@pytest.mark.parametrize("where", ["config", "text_config"])
def test_tied_embeddings_are_not_saved_beside_an_adapter(tmp_path: Path, where: str) -> None:
    tied = {"tie_word_embeddings": True}
    config = tied if where == "config" else {"text_config": tied}
    with pytest.raises(BadRecipe, match="train.modules_to_save: embeddings: .* one matrix"):
        check_trainable(base(tmp_path, model_type="llama", **config), Train(modules_to_save=("embeddings",)))


def test_full_is_not_for_llama_4(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="train.method: full: is for small models, but the base is a llama4"):
        check_trainable(base(tmp_path, model_type="llama4"), Train(method="full"))


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ({"targets": ["router"], "dropout": 0.05}, "dropout: 0.05: must be 0 with the target router"),
        ({"targets": []}, "targets: at least one"),
        ({"method": "full", "init_from": "other"}, "method full trains every weight"),
        ({"final_learning_rate": 1e-6, "schedule": "linear"}, "requires the cosine schedule, not linear"),
        ({"init_from": "../other"}, "init_from"),
    ],
)
def test_what_does_not_fit_together_is_refused(train: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Train.model_validate(train)
