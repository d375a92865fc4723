"""Llama 4's experts, each on the tokens that chose it, against the stock forward: a whole step, forward and backward.

Scout's proportions at a sixteenth (hidden 5,120 → 320, heads 40/8 × 128 → 5/1 × 64, width 8,192 → 512), 16 experts,
top-1, a shared expert; three layers instead of 48, and of its 202,048 words the share of three layers, fp32.

    python benchmarks/sparse_experts.py [--rounds 5] [--tokens 2048]
"""

import argparse
import copy
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Llama4ForCausalLM, Llama4TextConfig
from transformers.utils import logging

from benchmarks.common.rounds import in_turn, medians, print_result, threads
from tuneline.stages.train.model.adapter_targets import resolve_targets
from tuneline.stages.train.model.base_model import prevent_repacking
from tuneline.stages.train.model.llama4_experts import linearize_experts
from tuneline.stages.train.model.sparse_experts import use_sparse_experts

EXPERTS = 16
TARGET = 4.0
SEQUENCE = 512
SCOUT = {
    "hidden_size": 320,
    "intermediate_size": 512,
    "intermediate_size_mlp": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": 789,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "attention_chunk_size": SEQUENCE,
    "max_position_embeddings": SEQUENCE,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=2048)
    options = parser.parse_args()
    torch.set_num_threads(threads())
    logging.disable_progress_bar()
    torch.manual_seed(0)
    stock = Llama4ForCausalLM(Llama4TextConfig(**SCOUT))
    for parameter in stock.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    sparse = copy.deepcopy(stock)
    use_sparse_experts(sparse)
    tokens = torch.randint(3, SCOUT["vocab_size"], (options.tokens // SEQUENCE, SEQUENCE))
    gradient_difference = difference(gradients(stock, tokens), gradients(sparse, tokens))
    dense = {"stock": stock, "sparse": sparse}
    seconds = step_seconds(dense, tokens, options.rounds)
    nf4 = four_bit(stock)
    seconds |= step_seconds(nf4, tokens, options.rounds)
    ratio = seconds["stock"] / seconds["sparse"]
    print(f"a step of {options.tokens} tokens: stock {seconds['stock']:.3f} s, sparse {seconds['sparse']:.3f} s")
    print(f"{ratio:.2f} times as fast (target {TARGET}); gradients differ by {gradient_difference:.1e} at most")
    print(
        f"experts in NF4, adapters trained: every expert on every token {seconds['nf4_all']:.3f} s, "
        f"sparse {seconds['nf4_sparse']:.3f} s"
    )
    print_result(
        "sparse_experts",
        ratio,
        TARGET,
        met=ratio >= TARGET,
        threads=threads(),
        tokens=options.tokens,
        rounds=options.rounds,
        median_seconds={name: round(value, 4) for name, value in seconds.items()},
        nf4_sparse_over_nf4_all=round(seconds["nf4_all"] / seconds["nf4_sparse"], 2),
        largest_gradient_difference=gradient_difference,
    )


def step(model: Any, tokens: torch.Tensor) -> None:
    model.zero_grad(set_to_none=True)
    model(input_ids=tokens, labels=tokens).loss.backward()


def gradients(model: Any, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    step(model, tokens)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max((first[name] - second[name]).abs().max().item() for name in first.keys() | second.keys())


def step_seconds(models: dict[str, Any], tokens: torch.Tensor, rounds: int) -> dict[str, float]:
    """Return the median seconds of a training step of each model."""

    def seconds(model: Any) -> float:
        started = time.perf_counter()
        step(model, tokens)
        return time.perf_counter() - started

    return medians(in_turn({name: partial(seconds, model) for name, model in models.items()}, rounds))


def four_bit(stock: Any) -> dict[str, Any]:
    """Both ways with experts in NF4 and an adapter on each; the stock way is transformers' list of experts."""
    from transformers.models.llama4.modeling_llama4 import Llama4TextMoe
    from transformers.quantizers.base import SequentialLlama4TextExperts

    with tempfile.TemporaryDirectory() as folder:
        stock.save_pretrained(folder)
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        with linearize_experts(EXPERTS):
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=quantization)
    prevent_repacking(model)
    targets = ("attention", "mlp", "experts")
    found = resolve_targets("llama4_text", targets, dict(model.named_modules()), dict(model.named_parameters()))
    sparse = get_peft_model(model, LoraConfig(r=8, target_modules=found.modules))
    every = copy.deepcopy(sparse)
    for layer in every.base_model.model.model.layers:
        layer.feed_forward.__class__ = Llama4TextMoe
        layer.feed_forward.experts.__class__ = SequentialLlama4TextExperts
        layer.feed_forward.experts.num_experts = EXPERTS
    return {"nf4_all": every, "nf4_sparse": sparse}


if __name__ == "__main__":
    main()
