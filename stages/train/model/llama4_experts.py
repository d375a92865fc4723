"""Llama 4's experts as modules: bitsandbytes and LoRA see Linears, where the checkpoint has two fused Parameters.

A checkpoint's `experts.gate_up_proj` [experts, hidden, 2 × width] and `experts.down_proj` [experts, width, hidden] are
cut into one Linear per expert and projection while they are read, one layer at a time: nothing is written, and in 4 bit
never more than a layer lies in 16 bit. `stages/checkpoints/fused_experts.py` folds an adapter of these back, exactly.
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
from tuneline.stages.train.model.base_model import fill
from tuneline.stages.train.model.sparse_experts import SparseMoe, use_sparse_experts

CLASS = "Llama4ForCausalLM"
PREFIX = "language_model."
"""Of the language model's weights in a checkpoint that can see, too."""
GATED = ("gate_proj", "up_proj")


class LinearizedMoe(SparseMoe):
    """Its experts are a module each, as the shared expert is."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        experts = nn.ModuleList(modeling.Llama4TextMLP(config) for _ in range(config.num_local_experts))
        self.experts: Any = experts


class CutExperts(ConversionOps):
    """A fused Parameter as the weights of its experts' Linears, [out, in] each."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **_: Any
    ) -> dict[str, Any]:
        (found,) = input_dict.values()
        fused: torch.Tensor = found[0] if isinstance(found, list) else found
        per_expert = len(target_patterns) // len(fused)
        matrices = [part.T.contiguous() for expert in fused for part in expert.chunk(per_expert, dim=-1)]
        return dict(zip(target_patterns, matrices, strict=True))


@contextlib.contextmanager
def linearized(experts: int) -> Iterator[None]:
    """Inside, a Llama 4 is loaded with its experts, so many a layer, as modules."""
    stock = modeling.Llama4TextMoe
    known = conversion_mapping.get_checkpoint_conversion_mapping(CLASS)
    names = range(experts)
    conversion_mapping.register_checkpoint_conversion_mapping(
        CLASS,
        [
            WeightConverter(
                ["feed_forward.experts.gate_up_proj"],
                [f"feed_forward.experts.{e}.{part}.weight" for e in names for part in GATED],
                [CutExperts()],
            ),
            WeightConverter(
                ["feed_forward.experts.down_proj"],
                [f"feed_forward.experts.{e}.down_proj.weight" for e in names],
                [CutExperts()],
            ),
        ],
        overwrite=True,
    )
    modeling.Llama4TextMoe = LinearizedMoe  # type: ignore[misc]
    try:
        yield
    finally:
        modeling.Llama4TextMoe = stock  # type: ignore[misc]
        conversion_mapping.register_checkpoint_conversion_mapping(CLASS, known or [], overwrite=True)


def stored_prefix(base: Path) -> str:
    """What stands before the language model's names in the checkpoint, and not in the loaded model."""
    with safe_open(list_shards(base)[0], "pt") as file:
        return PREFIX if any(name.startswith(PREFIX) for name in file.keys()) else ""  # noqa: SIM118


def tuned_llama4(base: Path, adapter: Path, dtype: Any) -> PeftModel:
    """Base and adapter, unmerged, as they were trained."""
    with linearized(experts_of(base)):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True)
    use_sparse_experts(model)
    adapted = get_peft_model(model, PeftConfig.from_pretrained(str(adapter)))
    assert isinstance(adapted, PeftModel)
    fill(adapted, adapter, stored_prefix(base))
    return adapted


def experts_of(base: Path) -> int:
    """How many a layer has."""
    return int(AutoConfig.from_pretrained(base).get_text_config().num_local_experts)
