"""Llama 4's experts: sparse as exact as stock, linearized, truly in 4 bit, and folded back into the checkpoint."""

import copy
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Llama4ForCausalLM

from tests.unit import llama4
from tuneline.core.errors import StageFailed
from tuneline.stages.checkpoints.buffers import BufferPool
from tuneline.stages.checkpoints.lora_adapter import Adapter
from tuneline.stages.checkpoints.safetensors_files import list_tensors, load_rows
from tuneline.stages.convert.onepass.merged_checkpoint import merge_adapter
from tuneline.stages.convert.reference_model import load_tuned_model
from tuneline.stages.train.model.adapter_targets import resolve_targets
from tuneline.stages.train.model.llama4_experts import (
    PREFIX,
    linearize_experts,
    load_tuned_llama4,
    read_checkpoint_prefix,
)
from tuneline.stages.train.model.parameter_count import count_parameters, refuse_unquantized
from tuneline.stages.train.model.sparse_experts import use_sparse_experts

ALL = ("attention", "mlp", "router", "experts")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama4.save(tmp_path_factory.mktemp("llama4") / "base")


def load(base: Path, *, four_bit: bool = False, linear: bool = True) -> Any:
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    arguments = {"dtype": torch.float32, "quantization_config": quantization if four_bit else None}
    if not linear:
        return AutoModelForCausalLM.from_pretrained(base, **arguments)
    with linearize_experts(llama4.EXPERTS):
        return AutoModelForCausalLM.from_pretrained(base, **arguments)


def adapted(model: Any, targets: tuple[str, ...] = ALL, **more: Any) -> Any:
    found = resolve_targets("llama4_text", targets, dict(model.named_modules()), dict(model.named_parameters()))
    settings = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
    torch.manual_seed(3)
    config = LoraConfig(**settings, target_modules=found.modules, target_parameters=found.parameters, **more)
    return get_peft_model(model, config)


def gradients(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    tokens = llama4.tokens()
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def difference(mine: dict[str, torch.Tensor], stock: dict[str, torch.Tensor]) -> float:
    assert mine.keys() == stock.keys()
    return max((mine[name] - stock[name]).abs().max().item() for name in stock)


@pytest.mark.parametrize("top_k", [1, 2])
def test_sparse_experts_give_the_stock_forwards_loss_and_gradients(top_k: int) -> None:
    stock = llama4.random_model(num_experts_per_tok=top_k)
    sparse = copy.deepcopy(stock)
    assert use_sparse_experts(sparse) == 2
    (loss, expected), (mine, found) = gradients(stock), gradients(sparse)
    assert mine == pytest.approx(loss, abs=1e-6)
    assert any("experts.gate_up_proj" in name for name in found) and any("router" in name for name in found)
    assert difference(found, expected) < 2e-7 * max(1.0, max(g.abs().max().item() for g in expected.values()) * 10)


def test_among_several_processes_an_expert_nobody_chose_has_a_gradient_of_zeros(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(load(base, four_bit=True), ("experts",)).train()
    monkeypatch.setattr("tuneline.stages.train.model.sparse_experts.dist.is_initialized", lambda: True)
    one = llama4.tokens()[:1, :2]
    model(input_ids=one, labels=one).loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in found.values())
    idle = [name for name, gradient in found.items() if "lora_B" in name and not gradient.any()]
    assert 0 < len(idle) < len(found) / 2


def test_linearized_experts_are_the_fused_ones_and_their_gradients_too(base: Path) -> None:
    stock, linear = load(base, linear=False), load(base)
    (loss, fused), (mine, cut) = gradients(stock), gradients(linear)
    assert mine == pytest.approx(loss, abs=1e-6)
    for layer in range(2):
        experts = f"model.layers.{layer}.feed_forward.experts"
        names = [[f"{experts}.{e}.{p}_proj.weight" for p in ("gate", "up")] for e in range(llama4.EXPERTS)]
        folded = torch.stack(
            [torch.cat([cut[name].T if name in cut else torch.zeros(64, 96) for name in pair], 1) for pair in names]
        )
        assert (folded - fused[f"{experts}.gate_up_proj"]).abs().max() < 1e-6


def test_loading_another_llama_4_afterwards_gives_stock_experts(base: Path) -> None:
    load(base)
    assert type(load(base, linear=False).model.layers[0].feed_forward).__name__ == "Llama4TextMoe"


def test_linearized_experts_are_truly_in_4_bit_and_fused_ones_are_refused(base: Path) -> None:
    linear = adapted(load(base, four_bit=True), ("attention", "experts"))
    refuse_unquantized(linear)
    counted = count_parameters(linear)
    experts = 2 * llama4.EXPERTS * 3 * 64 * 96
    shared, attention = 2 * 3 * 64 * 96, 2 * (2 * 64 * 64 + 2 * 64 * 32)
    assert counted.quantized == experts + shared + attention
    fused = adapted(load(base, four_bit=True, linear=False), ("attention", "mlp"))
    with pytest.raises(StageFailed, match=r"4 matrices.*not in 4 bit:\n.*experts.gate_up_proj \[4, 64, 192\]"):
        refuse_unquantized(fused)


def test_targets_by_meaning_adapt_what_they_say(base: Path) -> None:
    model = load(base)
    found = resolve_targets("llama4_text", ALL, dict(model.named_modules()), dict(model.named_parameters()))
    assert found.counts == {"attention": 8, "mlp": 6, "router": 2, "experts": 24}
    trained = {n.split(".lora_")[0] for n, p in adapted(model).named_parameters() if p.requires_grad}
    assert len(trained) == 8 + 6 + 2 + 24


def trained(model: Any) -> Any:
    """A few steps, so that every adapter differs from nothing."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        gradients(model)
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_an_adapter_of_all_folds_back_exactly(base: Path, tmp_path: Path, prefix: str) -> None:
    model = trained(adapted(load(base, four_bit=True)))
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    reloaded = load_tuned_llama4(base, tmp_path / "adapter", torch.float32).eval()
    expected = reloaded(input_ids=llama4.tokens()).logits

    sees = tmp_path / "base"
    shutil.copytree(base, sees)
    weights = load_file(base / "model.safetensors")
    save_file({prefix + name: w for name, w in weights.items()}, sees / "model.safetensors", {"format": "pt"})
    adapter = tmp_path / "adapter/adapter_model.safetensors"
    named = {n.replace("base_model.model.", f"base_model.model.{prefix}"): w for n, w in load_file(adapter).items()}
    save_file(named, adapter)
    assert read_checkpoint_prefix(sees) == prefix
    merge_adapter(sees, tmp_path / "adapter", tmp_path / "merged", lambda done, total: None)

    merged = load_file(tmp_path / "merged/model.safetensors")
    tuned = Llama4ForCausalLM(llama4.config())
    tuned.load_state_dict({name.removeprefix(prefix): w for name, w in merged.items()}, strict=True)
    answers = tuned.eval()(input_ids=llama4.tokens()).logits
    untouched = load(base, linear=False).eval()(input_ids=llama4.tokens()).logits
    assert (answers - expected).abs().max() < 5e-6
    assert (answers - untouched).abs().max() > 1e-2
    # As verification opens it, from the checkpoint with its own names.
    unmerged = load_tuned_model(sees, tmp_path / "adapter")
    assert (unmerged(input_ids=llama4.tokens()).logits - expected).abs().max() < 1e-6


def test_the_fold_is_one_rounding_of_base_and_pefts_delta(base: Path, tmp_path: Path) -> None:
    model = trained(adapted(load(base), ("experts",)))
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    half = llama4.save(tmp_path / "half", "bfloat16") / "model.safetensors"
    before, adapter = load_file(half), Adapter(tmp_path / "adapter")
    seen = 0
    for tensor in list_tensors(half):
        if ".experts." not in tensor.name:
            continue
        parts = ("gate_proj", "up_proj") if "gate_up" in tensor.name else ("down_proj",)
        experts = model.get_submodule("base_model.model." + tensor.name.rpartition(".")[0])
        deltas = [[getattr(expert, part).get_delta_weight("default").T for part in parts] for expert in experts]
        exact = (before[tensor.name].float() + torch.stack([torch.cat(pair, 1) for pair in deltas])).bfloat16()
        # In three uneven blocks of rows, as a stream reads a large tensor.
        cuts = [0, 50, 131, tensor.rows]
        blocks = [
            adapter.merge_rows(tensor.name, load_rows(tensor, a, b), a, b, BufferPool(), torch.bfloat16)
            for a, b in pairwise(cuts)
        ]
        assert torch.equal(torch.cat(blocks).view(tensor.shape), exact)
        assert not torch.equal(exact, before[tensor.name])
        seen += 1
    assert seen == 4


def test_an_expert_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    model = adapted(load(base), ("experts",))
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    other = llama4.save(tmp_path / "other", num_local_experts=2)
    with pytest.raises(StageFailed, match="was it trained on another base"):
        merge_adapter(other, tmp_path / "adapter", tmp_path / "merged", lambda done, total: None)
