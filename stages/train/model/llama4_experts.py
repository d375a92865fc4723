"""Llama 4's experts as modules: Linears for bitsandbytes and LoRA, where the checkpoint has two fused Parameters.

A checkpoint's `experts.gate_up_proj` [experts, hidden, 2 × width] and `experts.down_proj` [experts, width, hidden] are
split into one Linear per expert and projection while they are read, one layer at a time: nothing is written, and in
4 bit at most one layer is held in 16 bit. `stages/checkpoints/fused_experts.py` folds an adapter of these Linears back
into the fused Parameters, exactly.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers.models.llama4.modeling_llama4 as modeling
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter

from tuneline.stages.checkpoints.safetensors_files import list_shards
from tuneline.stages.train.model.adapter_weights import load_adapter_weights
from tuneline.stages.train.model.sparse_experts import SparseMoe, use_sparse_experts

CLASS = "Llama4ForCausalLM"
PREFIX = "language_model."
"""Before the language model's weight names in a checkpoint with a vision tower."""
GATED = ("gate_proj", "up_proj")


class LinearizedMoe(SparseMoe):
    """A mixture with one module per expert, built like the shared expert."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        experts = nn.ModuleList(modeling.Llama4TextMLP(config) for _ in range(config.num_local_experts))
        self.experts: Any = experts


class SplitExperts(ConversionOps):
    """Splits a fused Parameter into the weights of its experts' Linears, [out, in] each."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **_: Any
    ) -> dict[str, Any]:
        (value,) = input_dict.values()
        fused: torch.Tensor = value[0] if isinstance(value, list) else value
        per_expert = len(target_patterns) // len(fused)
        matrices = [part.T.contiguous() for expert in fused for part in expert.chunk(per_expert, dim=-1)]
        return dict(zip(target_patterns, matrices, strict=True))


@contextlib.contextmanager
def linearize_experts(experts: int) -> Iterator[None]:
    """Within this context, a Llama 4 is loaded with a module for each of its `experts` experts per layer."""
    stock_class = modeling.Llama4TextMoe
    stock_mapping = conversion_mapping.get_checkpoint_conversion_mapping(CLASS)
    conversion_mapping.register_checkpoint_conversion_mapping(
        CLASS,
        [
            WeightConverter(
                ["feed_forward.experts.gate_up_proj"],
                [f"feed_forward.experts.{e}.{part}.weight" for e in range(experts) for part in GATED],
                [SplitExperts()],
            ),
            WeightConverter(
                ["feed_forward.experts.down_proj"],
                [f"feed_forward.experts.{e}.down_proj.weight" for e in range(experts)],
                [SplitExperts()],
            ),
        ],
        overwrite=True,
    )
    modeling.Llama4TextMoe = LinearizedMoe  # type: ignore[misc]
    try:
        yield
    finally:
        modeling.Llama4TextMoe = stock_class  # type: ignore[misc]
        conversion_mapping.register_checkpoint_conversion_mapping(CLASS, stock_mapping or [], overwrite=True)


def read_checkpoint_prefix(base: Path) -> str:
    """Return what the checkpoint puts before the language model's weight names; the loaded model does not have it."""
    with safe_open(list_shards(base)[0], "pt") as file:
        return PREFIX if any(name.startswith(PREFIX) for name in file.keys()) else ""  # noqa: SIM118


def load_tuned_llama4(base: Path, adapter: Path, dtype: Any) -> PeftModel:
    """Return the base with its adapter, unmerged, in the form they were trained in."""
    with linearize_experts(count_experts(base)):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True)
    use_sparse_experts(model)
    adapted = get_peft_model(model, PeftConfig.from_pretrained(str(adapter)))
    assert isinstance(adapted, PeftModel)
    load_adapter_weights(adapted, adapter, read_checkpoint_prefix(base))
    return adapted


def count_experts(base: Path) -> int:
    """Return the number of experts per layer."""
    return int(AutoConfig.from_pretrained(base).get_text_config().num_local_experts)
