"""The bases Tuneline knows, and what follows from a model's shape: `models.yaml`, checked.

Counts come from the shape alone, so a plan needs neither weights nor torch.
"""

import re
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from tuneline.configs.section import StrictModel
from tuneline.core.errors import NotFound

FILE = Path(__file__).parent / "models.yaml"
FAMILIES = ("llama", "llama4", "llama4_text", "mistral")
"""`model_type` in config.json of the models Tuneline trains."""
UNVERIFIED = "unverified"


class Shape(StrictModel):
    """The sizes of a decoder, as its config.json has them; all counts in parameters."""

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
    """3 with a gate, 2 without (then its norms have a bias too)."""
    experts: int = 0
    experts_per_token: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    """Of the expert that every token goes through."""
    expert_every: int = 1
    """Every so many layers has experts; the others have the feed-forward `ffn`."""
    local_tokens: int = 0
    """What most layers see of a longer context; 0 is all of it."""
    global_every: int = 1
    """Every so many layers sees all."""
    other: int = 0
    """Parameters outside the text model: a vision tower and its projector."""
    published: float | None = None
    """Billions, as its publisher says."""

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
        """One expert of one layer."""
        return 3 * self.hidden * self.expert_ffn

    @property
    def dense(self) -> int:
        """All feed-forwards that every token goes through, the shared experts too."""
        plain = (self.layers - self.expert_layers) * self.mlp_matrices * self.hidden * self.ffn
        return plain + self.expert_layers * 3 * self.hidden * self.shared_ffn

    @property
    def routers(self) -> int:
        return self.expert_layers * self.hidden * self.experts

    @property
    def linear(self) -> int:
        """What a 4-bit base has in 4 bit: all matrices of the layers, experts too, but not routers."""
        return self.layers * self.attention + self.dense + self.expert_layers * self.experts * self.expert

    @property
    def embeddings(self) -> int:
        """Input and output together."""
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
        """What one token of text goes through."""
        return self.text - self.expert_layers * (self.experts - self.experts_per_token) * self.expert

    def kv_bytes(self, context: int, *, local: bool = False) -> int:
        """KV cache of one stream at 16 bit; `local`: an engine that keeps of local layers only what they see."""
        a_token = 2 * self.kv_heads * self.head_dim * 2
        if not (local and self.local_tokens):
            return self.layers * context * a_token
        far = self.layers // self.global_every
        return a_token * (far * context + (self.layers - far) * min(context, self.local_tokens))


class Model(StrictModel):
    """One base: where it is, what it may be used for, what shape it has."""

    hub: str | None
    revision: str = UNVERIFIED
    shape: str
    kind: Literal["base", "instruct"]
    context: int
    """Longest, in tokens."""
    licence: str
    gated: bool
    template: str | None = None
    tool_parser: str | None = None
    tested: bool = False
    """Whether the whole line is run on it by our tests."""


class Licence(StrictModel):
    """What a base's licence asks of whoever passes on what was made of it."""

    name: str
    url: str
    hub: str | None
    """Its name on the hub; None is `other` there."""
    built_with: str | None = None
    """Words to be shown prominently."""
    name_begins: str | None = None
    """What the tuned model's name must begin with."""
    notice: str | None = None
    """For a text file `NOTICE` beside the model."""
    asks: tuple[str, ...] = ()


class _Never(StrictModel):
    name: str
    because: str
    instead: tuple[str, ...]


class Registry(StrictModel):
    """`models.yaml`."""

    as_of: date
    shapes: dict[str, Shape]
    models: dict[str, Model]
    licences: dict[str, Licence] = Field(default={})
    never: tuple[_Never, ...] = Field(default=())

    def find(self, name: str) -> str | None:
        """The entry of a name: its key, its hub id or that without the owner, whatever their case; None if none."""
        asked = _plain(name)
        for key, model in self.models.items():
            if asked in (_plain(key), _plain(model.hub or key)) and ("/" not in name or _same(name, model.hub)):
                return key
        return None

    def shape(self, key: str) -> Shape:
        return self.shapes[self.models[key].shape]

    def is_trainable(self, key: str) -> bool:
        return self.shape(key).family in FAMILIES

    def explain_missing(self, name: str) -> str | None:
        """Why a name people bring cannot be, and what does exist; None if nothing is known against it."""
        owner = name.strip().lower().rpartition("/")[0]
        if owner not in ("", "meta-llama") or self.find(name):
            return None  # others may call theirs what they like
        for never in self.never:
            if re.fullmatch(never.name, _plain(name)):
                return f"{name!r} does not exist: {never.because}.\nThese do: {', '.join(never.instead)}"
        return None


@cache
def registry() -> Registry:
    """The table as shipped."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml is
    return Registry.model_validate(yaml.load(FILE.read_text(encoding="utf-8"), loader))


def resolve_key(name: str) -> str:
    """The registry's key of a name.

    Raises:
        NotFound: no such model; says what does exist.
    """
    if found := registry().find(name):
        return found
    if reason := registry().explain_missing(name):
        raise NotFound(reason)
    import difflib

    close = difflib.get_close_matches(_plain(name), registry().models, 3, 0.5)
    hint = f"did you mean {', '.join(close)}?" if close else "`tuneline models ls` shows those that are"
    raise NotFound(f"model {name!r}: not in {FILE.name}; {hint}")


def read_shape(config: dict[str, Any]) -> Shape | None:
    """The shape in a config.json; None if it does not say all sizes."""
    config = config.get("text_config", config)
    experts = int(config.get("num_local_experts") or 0)
    four = str(config.get("model_type", "")).startswith("llama4")
    try:
        heads, ffn = int(config["num_attention_heads"]), int(config["intermediate_size"])
        return Shape(
            family=str(config["model_type"]),
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or int(config["hidden_size"]) // heads,
            ffn=config["intermediate_size_mlp"] if four else ffn,
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=bool(config.get("attention_bias", False)),
            experts=experts,
            experts_per_token=config.get("num_experts_per_tok") or 0,
            expert_ffn=ffn if experts else 0,
            shared_ffn=ffn if four else 0,
            expert_every=config.get("interleave_moe_layer_step") or 1,
            local_tokens=config.get("attention_chunk_size") or 0 if four else 0,
            global_every=config.get("no_rope_layer_interval") or 4 if four else 1,
        )
    except (KeyError, TypeError, ValueError):
        return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.strip().lower().rpartition("/")[2])


def _same(name: str, hub: str | None) -> bool:
    return hub is not None and name.strip().lower() == hub.lower()
