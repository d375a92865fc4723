"""The weights that a checkpoint must hold, by its config.json: names and shapes, as transformers has them."""

from collections.abc import Mapping
from typing import Any

from tuneline.stages.checkpoints.base_config import is_tied

VISION_PREFIXES = ("vision_model.", "multi_modal_projector.", "model.vision_model.", "model.multi_modal_projector.")
"""Weights of Llama 4 that text does not pass through."""
NOT_LEARNED = "rotary_emb.inv_freq"
"""Computed from the config; older checkpoints store it."""
Shapes = dict[str, tuple[int, ...]]


def expected_weights(config: Mapping[str, Any]) -> Shapes:
    """Return name → shape of each weight of a dense Llama or Mistral with this config.

    `lm_head.weight` is left out if it is the embedding. Raises KeyError, TypeError or ValueError if a size is missing
    or no number.
    """
    hidden, width = int(config["hidden_size"]), int(config["intermediate_size"])
    heads = int(config["num_attention_heads"])
    head = int(config.get("head_dim") or hidden // heads)
    queries, keys = heads * head, int(config.get("num_key_value_heads") or heads) * head
    layer: Shapes = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    attention = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)}
    feed_forward = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
    for group, matrices, has_bias in (
        ("self_attn", attention, config.get("attention_bias")),
        ("mlp", feed_forward, config.get("mlp_bias")),
    ):
        for name, shape in matrices.items():
            layer[f"{group}.{name}_proj.weight"] = shape
            if has_bias:
                layer[f"{group}.{name}_proj.bias"] = shape[:1]
    layers = range(int(config["num_hidden_layers"]))
    weights: Shapes = {f"model.layers.{number}.{name}": shape for number in layers for name, shape in layer.items()}
    weights |= {"model.embed_tokens.weight": (int(config["vocab_size"]), hidden), "model.norm.weight": (hidden,)}
    return weights if is_tied(config) else weights | {"lm_head.weight": (int(config["vocab_size"]), hidden)}


def expected_llama4_weights(config: Mapping[str, Any], prefix: str) -> Shapes:
    """Return name → shape of the weights of a Llama 4's text model outside its feed-forwards.

    `prefix` is what a checkpoint with a vision tower puts before these names.
    """
    weights = expected_weights({"tie_word_embeddings": False, **config.get("text_config", config)})
    return {prefix + name: shape for name, shape in weights.items() if ".mlp." not in name}
