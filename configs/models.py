"""The known bases, and parameter counts by a model's shape: the schema and reader of `models.yaml`.

Counts follow from the shape alone, so a plan needs neither weights nor torch.
"""

import re
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tuneline.configs.section import StrictModel
from tuneline.configs.yaml_loader import read_yaml
from tuneline.core.errors import BadRecipe, NotFound

FILE = Path(__file__).parent / "models.yaml"
FAMILIES = ("llama", "llama4", "llama4_text", "mistral")
"""`model_type` in the config.json of models that Tuneline trains."""
UNVERIFIED = "unverified"


class Shape(StrictModel):
    """The sizes of a decoder, as in its config.json. Its properties count parameters."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    tied: bool = False
    qkv_bias: bool = False
    mlp_matrices: int = 3
    """3 with a gate, 2 without (then its norms also have a bias)."""
    experts: int = 0
    experts_per_token: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    """Of the expert that every token passes through."""
    expert_every: int = 1
    """One in so many layers has experts; the others have the feed-forward `ffn`."""
    local_tokens: int = 0
    """Tokens of the context that most layers attend to; 0 is all."""
    global_every: int = 1
    """One in so many layers attends to the whole context."""
    other: int = 0
    """Parameters outside the text model: a vision tower and its projector."""
    published: float | None = None
    """Billions of parameters, as its publisher says."""

    @property
    def expert_layers(self) -> int:
        return self.layers // self.expert_every if self.experts else 0

    @property
    def attention(self) -> int:
        """Of one layer."""
        width, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return 2 * self.hidden * (width + kv) + self.qkv_bias * (width + 2 * kv)

    @property
    def expert(self) -> int:
        """Of one expert of one layer."""
        return 3 * self.hidden * self.expert_ffn

    @property
    def dense(self) -> int:
        """Of all feed-forwards that every token passes through, including shared experts."""
        plain = (self.layers - self.expert_layers) * self.mlp_matrices * self.hidden * self.ffn
        return plain + self.expert_layers * 3 * self.hidden * self.shared_ffn

    @property
    def routers(self) -> int:
        return self.expert_layers * self.hidden * self.experts

    @property
    def linear(self) -> int:
        """Of all matrices in the layers, including experts, without routers: what is quantized in a 4-bit base."""
        return self.layers * self.attention + self.dense + self.expert_layers * self.experts * self.expert

    @property
    def embeddings(self) -> int:
        """Of input and output embeddings together."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def norms(self) -> int:
        each = self.hidden * (1 if self.mlp_matrices == 2 else 2)
        with_bias = 2 if self.mlp_matrices == 2 else 1
        return with_bias * (self.layers * each + self.hidden)

    @property
    def text(self) -> int:
        return self.linear + self.routers + self.embeddings + self.norms

    @property
    def total(self) -> int:
        return self.text + self.other

    @property
    def active(self) -> int:
        """Of what one token of text passes through."""
        return self.text - self.expert_layers * (self.experts - self.experts_per_token) * self.expert

    def kv_bytes(self, context: int, *, local: bool = False) -> int:
        """Return the size of one stream's KV cache at 16 bit.

        `local` is for an engine that keeps only the tokens that a local layer attends to.
        """
        bytes_per_token = 2 * self.kv_heads * self.head_dim * 2
        if not (local and self.local_tokens):
            return self.layers * context * bytes_per_token
        global_layers = self.layers // self.global_every
        local_layers = self.layers - global_layers
        return bytes_per_token * (global_layers * context + local_layers * min(context, self.local_tokens))


class Model(StrictModel):
    """One base: its place on the hub, licence, shape and template."""

    hub: str | None
    revision: str = UNVERIFIED
    shape: str
    kind: Literal["base", "instruct"]
    context: int
    """Longest context, in tokens."""
    licence: str
    gated: bool
    template: str | None = None
    tool_parser: str | None = None
    tested: bool = False
    """Whether our tests run the whole pipeline on it."""
    layout_tested: bool = False
    """Whether our tests run the pipeline on a tiny model with its kind of tokenizer, template and weights."""


class Licence(StrictModel):
    """What a base's licence requires of those who publish models made from it."""

    name: str
    url: str
    hub: str | None
    """Its name on the hub; None is `other` there."""
    built_with: str | None = None
    """Words that must be shown prominently."""
    name_begins: str | None = None
    """Required beginning of the tuned model's name."""
    notice: str | None = None
    """The text of a file `NOTICE` beside the model."""
    asks: tuple[str, ...] = ()


class _Nonexistent(StrictModel):
    """A name that people bring of a model that does not exist."""

    name: str
    because: str
    instead: tuple[str, ...]


class Registry(StrictModel):
    """`models.yaml`."""

    as_of: date
    shapes: dict[str, Shape]
    models: dict[str, Model]
    licences: dict[str, Licence] = Field(default={})
    never: tuple[_Nonexistent, ...] = Field(default=())

    def find(self, name: str) -> str | None:
        """Return the key of a model, or None.

        `name` is its key, its hub id, or the hub id without the owner; case is ignored.
        """
        normalized = _normalize(name)
        for key, model in self.models.items():
            if normalized in (_normalize(key), _normalize(model.hub or key)) and (
                "/" not in name or _same(name, model.hub)
            ):
                return key
        return None

    def shape(self, key: str) -> Shape:
        return self.shapes[self.models[key].shape]

    def is_trainable(self, key: str) -> bool:
        return self.shape(key).family in FAMILIES

    def support(self, key: str) -> str:
        """Return how far a base is known to work: end to end, its layout, its template, or in plans alone."""
        model = self.models[key]
        if not self.is_trainable(key):
            return "planned only"
        if model.tested:
            return "tested end to end"
        if model.layout_tested:
            return "layout tested"
        return "template known" if model.template else "template by name"

    def explain_missing(self, name: str) -> str | None:
        """Return why a name cannot be a model, and what does exist; None if there is no such entry."""
        owner = name.strip().lower().rpartition("/")[0]
        if owner not in ("", "meta-llama") or self.find(name):
            return None  # other owners may use any name
        for never in self.never:
            if re.fullmatch(never.name, _normalize(name)):
                return f"{name!r} does not exist: {never.because}.\nThese do: {', '.join(never.instead)}"
        return None


@cache
def registry() -> Registry:
    """Return the shipped table."""
    return Registry.model_validate(read_yaml(FILE, BadRecipe))


def resolve_key(name: str) -> str:
    """Return the registry's key of a model, as `Registry.find` does.

    Raises:
        NotFound: no such model; the message names those that exist.
    """
    if key := registry().find(name):
        return key
    if reason := registry().explain_missing(name):
        raise NotFound(reason)
    import difflib

    close = difflib.get_close_matches(_normalize(name), registry().models, 3, 0.5)
    hint = f"did you mean {', '.join(close)}?" if close else "`tuneline models ls` lists the known ones"
    raise NotFound(f"model {name!r}: not in {FILE.name}; {hint}")


def read_shape(config: dict[str, Any]) -> Shape | None:
    """Return the shape in a parsed config.json, or None if it lacks a size."""
    config = config.get("text_config", config)
    experts = int(config.get("num_local_experts") or 0)
    is_llama4 = str(config.get("model_type", "")).startswith("llama4")
    try:
        heads, ffn = int(config["num_attention_heads"]), int(config["intermediate_size"])
        return Shape(
            family=str(config["model_type"]),
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or int(config["hidden_size"]) // heads,
            ffn=config["intermediate_size_mlp"] if is_llama4 else ffn,
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=bool(config.get("attention_bias", False)),
            experts=experts,
            experts_per_token=config.get("num_experts_per_tok") or 0,
            expert_ffn=ffn if experts else 0,
            shared_ffn=ffn if is_llama4 else 0,
            expert_every=config.get("interleave_moe_layer_step") or 1,
            local_tokens=config.get("attention_chunk_size") or 0 if is_llama4 else 0,
            global_every=config.get("no_rope_layer_interval") or 4 if is_llama4 else 1,
        )
    except (KeyError, TypeError, ValueError):
        return None


def _normalize(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.strip().lower().rpartition("/")[2])


def _same(name: str, hub: str | None) -> bool:
    return hub is not None and name.strip().lower() == hub.lower()
