"""Base folders as people bring them: what does not belong together is refused, by name, before anything is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.line.test_convert_mistral import WORDS
from tests.unit import llama2, llama4
from tuneline.configs.recipe import Recipe
from tuneline.core.errors import BadRecipe
from tuneline.core.events import Events, read_events
from tuneline.core.paths import ROOT
from tuneline.stages import fetch
from tuneline.stages.fetch.base_import import import_base
from tuneline.stages.fetch.base_weights import weight_files
from tuneline.stages.fetch.bases import locate_base
from tuneline.stages.fetch.model_files import refuse_unusable

TINY = ROOT / "data/tiny"
INDEX = "model.safetensors.index.json"
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


def recipe(base: Path) -> Recipe:
    return Recipe.model_validate({"name": "r", "base": str(base), "data": {"sources": [{"path": "x"}]}})


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(TINY, tmp_path / "base")
    return tmp_path / "base"


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def change_weights(base: Path, change: Callable[[dict[str, Any]], object], file: str = "model.safetensors") -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(base / "model.safetensors")
    change(weights)
    save_file(weights, base / file, {"format": "pt"})


def to_config(**changes: Any) -> Callable[[Path], None]:
    return lambda base: change_json(base / "config.json", **changes)


def rename(weights: dict[str, Any], old: str, new: str) -> None:
    weights[new] = weights.pop(old)


def without_prefix(base: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        for name in list(weights):
            rename(weights, name, name.removeprefix("model."))

    change_weights(base, change)


def with_old_index(base: Path) -> None:
    change_weights(base, lambda weights: None, "model-00001-of-00001.safetensors")
    names = dict.fromkeys((EMBEDDING, NORM), "model-00001-of-00001.safetensors")
    (base / INDEX).write_text(json.dumps({"weight_map": names}))


def with_index_of(weight: str) -> Callable[[Path], object]:
    return lambda base: (base / INDEX).write_text(json.dumps({"weight_map": {weight: "model.safetensors"}}))


def with_more_tokens(base: Path) -> None:
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    token = tokenizer["added_tokens"][-1] | {"id": 4096, "content": "<|city|>"}
    (base / "tokenizer.json").write_text(json.dumps(tokenizer | {"added_tokens": [*tokenizer["added_tokens"], token]}))


def only_adapter(base: Path) -> None:
    for file in base.iterdir():
        file.unlink()
    (base / "adapter_config.json").write_text('{"base_model_name_or_path": "acme/llama"}')
    (base / "adapter_model.safetensors").write_bytes(b"x")


def only_pickle(base: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()


def slow_tokenizer(base: Path) -> None:
    (base / "tokenizer.json").rename(base / "tokenizer.model")


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "more tokens than rows": (with_more_tokens, "has 4,097 tokens, its embedding 4,096 rows"),
    "a token of its config": (
        lambda base: change_json(base / "tokenizer_config.json", pad_token="[PAD]"),
        "has 4,097 tokens, its embedding 4,096 rows",
    ),
    "no embedding": (lambda base: change_weights(base, lambda w: w.pop(EMBEDDING)), f"{EMBEDDING} is missing"),
    "a renamed weight": (
        lambda base: change_weights(base, lambda w: rename(w, NORM, "model.norm.gamma")),
        f"{NORM} is missing .* there is model.norm.gamma instead",
    ),
    "one layer too many": (to_config(num_hidden_layers=3), "is not part of a llama of this config.json"),
    "one layer too few": (to_config(num_hidden_layers=5), r"model.layers.4.* is missing \(9 weights in all\)"),
    "another size": (to_config(intermediate_size=511), r"\[512, 256\], and config.json says \[511, 256\]"),
    "no size": (to_config(hidden_size="wide"), "a size is missing or not a number"),
    "untied without a head": (to_config(tie_word_embeddings=False), "lm_head.weight is missing: config.json says"),
    "tied to another head": (
        lambda base: change_weights(base, lambda w: w.update({"lm_head.weight": w[EMBEDDING] * 2})),
        "tie_word_embeddings: true, and lm_head.weight is another matrix",
    ),
    "no model.": (without_prefix, "have no `model.` before their names"),
    "a classifier": (
        lambda base: change_weights(base, lambda w: w.update({"score.weight": w[NORM].clone()})),
        "score.weight: this is a classifier",
    ),
    "a classifier's config": (to_config(architectures=["LlamaForSequenceClassification"]), "SequenceClassification"),
    "two saves": (with_old_index, "two models were saved in"),
    "an index of another save": (with_index_of(EMBEDDING), r"model.* is in model.safetensors, and the index says"),
    "an index that leads out": (
        lambda base: (base / INDEX).write_text(json.dumps({"weight_map": {EMBEDDING: "../x.safetensors"}})),
        "not an index of weights",
    ),
    "4 bit": (
        to_config(quantization_config={"quant_method": "bitsandbytes"}, _name_or_path="unsloth/Llama-bnb-4bit"),
        r"quantized \(bitsandbytes\): .* \(unsloth/Llama\)",
    ),
    "whole numbers": (
        lambda base: change_weights(base, lambda w: w.update({NORM: w[NORM].to(__import__("torch").int8)})),
        "I8: supported dtypes are BF16, F16, F32",
    ),
    "a rope that GGUF lacks": (
        to_config(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}),
        "rope_parameters: 'dynamic' cannot be expressed in a GGUF",
    ),
    "a rope as it was written before": (
        to_config(rope_parameters=None, rope_scaling={"type": "longrope", "factor": 2.0}),
        "rope_scaling: 'longrope' cannot be expressed",
    ),
    "an adapter alone": (only_adapter, "this is an adapter .* write `base:` 'acme/llama'"),
    "a pickle": (only_pickle, "tuneline models import FOLDER NEW_FOLDER"),
    "a slow tokenizer": (slow_tokenizer, "creates one from tokenizer.model"),
    "a cut file": (
        lambda base: (base / "model.safetensors").write_bytes((TINY / "model.safetensors").read_bytes()[:-1]),
        "bytes of",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_base_is_refused_as_a_whole_before_anything_is_written(base: Path, name: str, tmp_path: Path) -> None:
    change, says = CASES[name]
    change(base)
    with pytest.raises(BadRecipe, match=f"(?s){says}"):
        fetch.fetch(recipe(base), tmp_path / "run")
    assert not (tmp_path / "models").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda base: change_weights(base, lambda w: w.update({"lm_head.weight": w[EMBEDDING].clone()})),
        lambda base: change_weights(
            base, lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": w[NORM].clone()})
        ),
        to_config(rope_parameters=None, rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 4.0}),
        to_config(rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}),
    ],
)
def test_a_base_that_is_whole_is_taken(base: Path, change: Callable[[Path], None]) -> None:
    change(base)
    refuse_unusable(base)


def test_a_llama_4_is_checked_too(base: Path, tmp_path: Path) -> None:
    folder = llama4.save_with_tokenizer(tmp_path / "llama4", TINY)
    refuse_unusable(folder)
    change_weights(folder, lambda weights: weights.pop("model.layers.1.self_attn.q_proj.weight"))
    with pytest.raises(BadRecipe, match="q_proj.weight is missing"):
        refuse_unusable(folder)


def test_an_adapter_beside_a_base_is_neither_taken_nor_silent(base: Path, tmp_path: Path) -> None:
    (base / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (base / "adapter_model.safetensors").write_bytes(b"x")
    fetched = fetch.fetch(recipe(base), tmp_path / "run")
    assert not [name for name in fetched.manifest.files if name.startswith("adapter")]
    assert any("the folder also contains an adapter" in str(event) for event in read_events(tmp_path / "run"))


def test_the_root_of_a_hub_cache_is_a_base(base: Path, tmp_path: Path) -> None:
    root, commit = tmp_path / "models--acme--llama", "a" * 40
    shutil.copytree(base, root / "snapshots" / commit)
    assert locate_base(recipe(root)).slug.startswith("models--acme--llama@")
    shutil.copytree(base, root / "snapshots" / ("b" * 40))
    with pytest.raises(BadRecipe, match="a hub cache with 2 snapshots; name one"):
        locate_base(recipe(root))
    (root / "refs").mkdir()
    (root / "refs/main").write_text(commit)
    assert weight_files(locate_base(recipe(root)).path)[0].parent.name == commit  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("change", [only_pickle, without_prefix])
def test_an_older_base_is_imported_with_the_same_weights(base: Path, tmp_path: Path, change: Any) -> None:
    from safetensors.torch import load_file

    change(base)
    import_base(base, tmp_path / "new")
    refuse_unusable(tmp_path / "new")
    before, after = (load_file(folder / "model.safetensors") for folder in (TINY, tmp_path / "new"))
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
    assert (tmp_path / "new/chat_template.jinja").read_bytes() == (TINY / "chat_template.jinja").read_bytes()


@pytest.mark.slow
def test_a_base_in_4_bit_is_imported_in_16(tmp_path: Path) -> None:
    """Transformers cannot save what it dequantized; the weights are those that it computes with in 4 bit."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    quantized: Any = AutoModelForCausalLM.from_pretrained(TINY, quantization_config=four_bit)
    quantized.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(TINY).save_pretrained(tmp_path / "base")
    import_base(tmp_path / "base", tmp_path / "new")
    refuse_unusable(tmp_path / "new")
    imported: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "new", dtype=torch.float32)
    ids = torch.tensor([[5, 9, 100, 7]])
    with torch.no_grad():
        difference = (imported(ids).logits - quantized(ids).logits.float()).abs().max()
    assert difference < 0.2, "bf16 of logits around 10; the base itself is 1.6 away"


@pytest.mark.slow
def test_a_tokenizer_model_is_imported_with_the_same_ids(tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer

    base = llama2.save(tmp_path / "base", WORDS)
    (base / "tokenizer.json").unlink()
    with pytest.raises(BadRecipe, match="gives other ids for 'Hello, world'"):
        import_base(base, tmp_path / "new")
    change_json(base / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", backend=None, legacy=False)
    import_base(base, tmp_path / "new")
    refuse_unusable(tmp_path / "new")
    original: Any = SentencePieceProcessor(model_file=str(base / "tokenizer.model"))
    imported = AutoTokenizer.from_pretrained(tmp_path / "new")
    for text in ("Grüße, naïve façade", "leading\n\n\ttabs   end", "def f(x): return 1", "日本 😀"):
        assert imported(text, add_special_tokens=False).input_ids == original.encode(text)


@pytest.mark.slow
def test_a_pickle_with_code_is_not_run(base: Path, tmp_path: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    only_pickle(base)
    torch.save({EMBEDDING: Evil()}, base / "pytorch_model.bin")
    with pytest.raises(BadRecipe, match="contains more than tensors"):
        import_base(base, tmp_path / "new")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".import-*"))


def test_training_refuses_weights_that_transformers_made_up(base: Path) -> None:
    from tuneline.configs.training import Train
    from tuneline.stages.train.model import base_model

    change_weights(base, lambda weights: weights.pop(EMBEDDING))
    with pytest.raises(BadRecipe, match="trained from random numbers"):
        base_model._load_base(Train(), base, "llama", Events(base.parent, "train"), sharded=False)
