"""Which weights get an adapter: `attention`, `mlp`, `router`, `experts`, in the terms of each architecture."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneline.configs.training import Train
from tuneline.core.errors import BadRecipe

LAYERS = r"(?:language_model\.)?model\.layers\.\d+\."
"""Of the language model; a vision tower's layers have another prefix."""
_ATTENTION, _GATED = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
PLAIN = {"attention": _ATTENTION, "mlp": _GATED}
"""Last names of Llama's and Mistral's modules."""
LLAMA_4 = {
    "attention": rf"self_attn\.(?:{'|'.join(_ATTENTION)})",
    # Every other layer of Maverick is dense: its feed_forward is the MLP itself.
    "mlp": rf"feed_forward\.(?:shared_expert\.)?(?:{'|'.join(_GATED)})",
    "experts": rf"feed_forward\.experts\.\d+\.(?:{'|'.join(_GATED)})",
}
"""Inside a layer, once `stages/train/model/llama4_experts.py` has made a module of each expert."""
ROUTER = "feed_forward.router.weight"
"""A Parameter: its module returns two values, which PEFT's Linear cannot wrap."""
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "llama": ("attention", "mlp"),
    "mistral": ("attention", "mlp"),
    "llama4": ("attention", "mlp", "router", "experts"),
    "llama4_text": ("attention", "mlp", "router", "experts"),
}
"""What each has, by `model_type` of its config.json."""
SAVED = {"embeddings": "embed_tokens", "head": "lm_head"}
"""Modules of `modules_to_save`."""


@dataclass(frozen=True)
class Targets:
    """What LoraConfig is told."""

    modules: list[str] | str | None
    parameters: list[str] | None
    found: dict[str, int]
    """How many weights each meaning stands for in this model."""


def check(base: Path, settings: Train) -> str:
    """The base's `model_type`, which has all that is asked for; read from its config.json, before torch is imported.

    Raises:
        BadRecipe: an architecture that is not known, a target or method it lacks, or a tied embedding to be saved.
    """
    config = json.loads((base / "config.json").read_text())
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        raise BadRecipe(f"base: {base}: architecture {kind!r}; known are {', '.join(ARCHITECTURES)}")
    has = ARCHITECTURES[kind]
    if settings.method == "full" and "experts" in has:
        raise BadRecipe(f"train.method: full: is for small models, and the base is a {kind}; take lora or qlora")
    if lacking := [target for target in settings.targets if target not in has and settings.method != "full"]:
        raise BadRecipe(f"train.targets: {lacking[0]}: the base is a {kind}, which has {', '.join(has)}; take it out")
    text = config.get("text_config", config)
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    if settings.modules_to_save and tied:
        raise BadRecipe(
            f"train.modules_to_save: {', '.join(settings.modules_to_save)}: input and output embeddings of this base "
            "are one matrix, which cannot be merged exactly; take it out"
        )
    return kind


def resolve(kind: str, targets: Sequence[str], modules: Iterable[str], parameters: Iterable[str]) -> Targets:
    """What `targets` stand for in a model of this `model_type` with these modules and parameters.

    Raises:
        BadRecipe: a target that this model has nothing of.
    """
    names, weights = list(modules), list(parameters)
    found = {}
    for target in targets:
        if target == "router":
            found[target] = sum(name.endswith(ROUTER) for name in weights)
        else:
            pattern = re.compile(_pattern(kind, target))
            found[target] = sum(pattern.fullmatch(name) is not None for name in names)
        if not found[target]:
            raise BadRecipe(f"train.targets: {target}: the base, a {kind}, has none; take it out")
    return Targets(_modules(kind, targets), [ROUTER] if "router" in targets else None, found)


def _pattern(kind: str, target: str) -> str:
    if kind.startswith("llama4"):
        return LAYERS + LLAMA_4[target]
    return rf"{LAYERS}\w+\.(?:{'|'.join(PLAIN[target])})"


def _modules(kind: str, targets: Sequence[str]) -> list[str] | str | None:
    """Plain names where they say enough: other programs read them; a pattern where names alone would catch more."""
    if not kind.startswith("llama4"):
        return [name for target in targets for name in PLAIN[target]]
    patterns = [LLAMA_4[target] for target in targets if target != "router"]
    return f"{LAYERS}(?:{'|'.join(patterns)})" if patterns else None
