"""Module groups that receive LoRA adapters: `attention`, `mlp`, `router` and `experts`, by architecture."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneline.configs.training import Train
from tuneline.core.errors import BadRecipe
from tuneline.stages.checkpoints.base_config import is_tied, read_config

LAYERS = r"(?:language_model\.)?model\.layers\.\d+\."
"""Prefix of a language model's layers; a vision tower's layers have another one."""
_ATTENTION, _GATED = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
DENSE_MODULES = {"attention": _ATTENTION, "mlp": _GATED}
"""Last names of Llama's and Mistral's modules."""
LLAMA4_MODULES = {
    "attention": rf"self_attn\.(?:{'|'.join(_ATTENTION)})",
    # Every other layer of Maverick is dense: its feed_forward is the MLP itself.
    "mlp": rf"feed_forward\.(?:shared_expert\.)?(?:{'|'.join(_GATED)})",
    "experts": rf"feed_forward\.experts\.\d+\.(?:{'|'.join(_GATED)})",
}
"""Patterns inside a layer, once `stages/train/model/llama4_experts.py` has made a module of each expert."""
ROUTER = "feed_forward.router.weight"
"""Adapted as a Parameter: the router module returns two values, which PEFT's Linear cannot wrap."""
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "llama": ("attention", "mlp"),
    "mistral": ("attention", "mlp"),
    "llama4": ("attention", "mlp", "router", "experts"),
    "llama4_text": ("attention", "mlp", "router", "experts"),
}
"""Target groups of each architecture, by `model_type` in config.json."""
SAVED_MODULES = {"embeddings": "embed_tokens", "head": "lm_head"}
"""PEFT's module names, by the recipe's names in `modules_to_save`."""


@dataclass(frozen=True)
class Targets:
    """Adapted weights, as LoraConfig takes them."""

    modules: list[str] | str | None
    """`target_modules`."""
    parameters: list[str] | None
    """`target_parameters`."""
    counts: dict[str, int]
    """Number of adapted weights, by target group."""


def check_trainable(base: Path, settings: Train) -> str:
    """Return the base's `model_type` if it supports the recipe's method and targets; reads config.json, without torch.

    Raises:
        BadRecipe: an unknown architecture, a target or method it does not support, or tied embeddings to be saved.
    """
    config = read_config(base)
    model_type = str(config.get("model_type"))
    if model_type not in ARCHITECTURES:
        raise BadRecipe(f"base: {base}: architecture {model_type!r}; known are {', '.join(ARCHITECTURES)}")
    groups = ARCHITECTURES[model_type]
    if settings.method == "full" and "experts" in groups:
        raise BadRecipe(f"train.method: full: is for small models, but the base is a {model_type}; use lora or qlora")
    if missing := [target for target in settings.targets if target not in groups and settings.method != "full"]:
        raise BadRecipe(
            f"train.targets: {missing[0]}: the base is a {model_type}, which has {', '.join(groups)}; remove it"
        )
    if settings.modules_to_save and is_tied(config):
        raise BadRecipe(
            f"train.modules_to_save: {', '.join(settings.modules_to_save)}: input and output embeddings of this base "
            "are one matrix, which cannot be merged exactly; remove it"
        )
    return model_type


def resolve_targets(
    model_type: str, groups: Sequence[str], modules: Iterable[str], parameters: Iterable[str]
) -> Targets:
    """Return the weights that the target groups cover, among the model's module and parameter names.

    Raises:
        BadRecipe: a target group covers nothing in this model.
    """
    module_names, parameter_names = list(modules), list(parameters)
    counts = {}
    for group in groups:
        if group == "router":
            counts[group] = sum(name.endswith(ROUTER) for name in parameter_names)
        else:
            pattern = re.compile(_build_pattern(model_type, group))
            counts[group] = sum(pattern.fullmatch(name) is not None for name in module_names)
        if not counts[group]:
            raise BadRecipe(f"train.targets: {group}: the base, a {model_type}, has none; remove it")
    return Targets(_select_modules(model_type, groups), [ROUTER] if "router" in groups else None, counts)


def _build_pattern(model_type: str, group: str) -> str:
    if model_type.startswith("llama4"):
        return LAYERS + LLAMA4_MODULES[group]
    return rf"{LAYERS}\w+\.(?:{'|'.join(DENSE_MODULES[group])})"


def _select_modules(model_type: str, groups: Sequence[str]) -> list[str] | str | None:
    """Return plain names where they are unambiguous, as other programs read them; else one pattern."""
    if not model_type.startswith("llama4"):
        return [name for group in groups for name in DENSE_MODULES[group]]
    patterns = [LLAMA4_MODULES[group] for group in groups if group != "router"]
    return f"{LAYERS}(?:{'|'.join(patterns)})" if patterns else None
