"""Peak memory of training one GPU's share, by part, from a shape: no torch, no weights.

The parts are what lives at the peak of a step: everything that stays, what the layers keep for the backward pass, and
the largest of three things that never live together: the layer at work, the loss over the vocabulary, and the
optimizer at one matrix. Bytes throughout. Each factor is a tensor one can name; what is calibrated says so.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from tuneline.configs.hardware import GIB
from tuneline.configs.models import Shape

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A parameter in NF4 with double quantization: 4 bits, a byte every 64, and four more every 256 of those."""
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""What TRL's fused head multiplies at a time (trl/kernels/chunked_logprob.py), instead of whole logits."""
CONTEXT_BYTES = 0.8 * GIB
"""CUDA's own, with cuBLAS's workspace."""
FRAGMENTED = 0.03
"""Of everything else: what the allocator holds and cannot use."""
LOSS_BYTES = 12
"""Of a logit where something is learned: its log-softmax, the gradient of that and its own, in 32 bit
(F.cross_entropy in stages/train/loop/loss.py)."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is trained, how, on how much at a time."""

    method: str = "qlora"
    rank: int = 16
    targets: frozenset[str] = frozenset({"attention", "mlp"})
    saved: frozenset[str] = frozenset()
    """Trained whole beside the adapter: `embeddings`, `head`."""
    rows: int = 1
    """Rows at a time on one GPU."""
    tokens: int = 2048
    """Of a row, with its padding."""
    checkpointing: Literal["layers", "offloaded", "none"] = "layers"
    compute_bytes: int = 2
    """Of a number in activations and unquantized weights: 2 on a GPU, 4 on the CPU."""
    unquantized_bytes: int = 4
    """Of what a 4-bit base keeps whole (embeddings, norms): PEFT turns it into 32 bit."""
    trained_bytes: int = 4
    optimizer_bytes: float = 2.06
    """Of each trained parameter: 8-bit Adam has two and their scales; 8 in 32 bit."""
    head: Literal["learned", "eighths", "tiled"] = "learned"
    """How the loss is computed: ours, over the positions at which something is learned; torchtune's, in 16 bit and
    worked on in eighths; or by kernels that never hold more than a tile of the logits."""
    all_experts: bool = False
    """Whether every token runs through every expert, as in Transformers' own Llama 4."""
    with_other: bool = False
    """Whether what is outside the text model is loaded too."""
    gpus: int = 1
    sharded: bool = False
    """FSDP2 instead of DDP."""
    on_cpu: bool = False
    masked: bool = False
    """Whether torch's own attention gets a mask, for padding or packed rows; other kernels need none."""
    learned: float = 1.0
    """Share of positions at which something is learned: logits are made for no other."""

    @classmethod
    def on_the_cpu(cls, **more: Any) -> "Work":
        """In 32 bit, with torch's own Adam, as training on the CPU is."""
        fixed: dict[str, Any] = {"checkpointing": "none", "compute_bytes": 4, "optimizer_bytes": 8, "on_cpu": True}
        return cls(**fixed | more)


@dataclass(frozen=True)
class Parts:
    """Bytes on one GPU at the peak."""

    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    overhead: float

    @property
    def allocated(self) -> float:
        """What torch's allocator reports; CUDA's own and fragments come on top."""
        return self.total - self.overhead

    @property
    def total(self) -> float:
        return float(sum(dataclasses.astuple(self)))


def peak(shape: Shape, work: Work) -> Parts:
    """The parts for one GPU of `work.gpus`."""
    trained, share = trainable(shape, work), work.gpus if work.sharded else 1
    weights = _weights(shape, work)
    gathered = _gathered(shape, work, weights) if work.sharded else 0.0
    buckets = trained * work.trained_bytes if work.gpus > 1 and not work.sharded else 0.0  # DDP reduces copies
    stored, layer = _activations(shape, work)
    logits, stepping = _logits(shape, work), _stepping(shape, work)
    parts = Parts(
        weights=weights / share + gathered,
        adapter=trained * work.trained_bytes / share,
        gradients=trained * work.trained_bytes / share + buckets,
        optimizer=trained * work.optimizer_bytes / share,
        activations=max(stored + max(0.0, layer - logits), stepping - logits),
        logits=logits,
        overhead=0.0,
    )
    overhead = 0.0 if work.on_cpu else CONTEXT_BYTES + FRAGMENTED * parts.total
    return dataclasses.replace(parts, overhead=overhead)


def trainable(shape: Shape, work: Work) -> int:
    """How many parameters are trained."""
    if work.method == "full":  # one matrix that is both embeddings stays as it is
        return shape.text - (shape.embeddings if shape.tied else 0)
    whole = sum(shape.vocabulary * shape.hidden for _ in work.saved)
    return adapter_parameters(shape, work.rank, work.targets) + whole


def adapter_parameters(shape: Shape, rank: int, targets: Iterable[str]) -> int:
    """Of a LoRA on the named parts; `mlp` is the shared expert too, `experts` is each projection of each expert."""
    width, kv, hidden = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.hidden
    sparse = shape.expert_layers
    shared = 3 * (hidden + shape.shared_ffn) * sparse if shape.shared_ffn else 0
    sides = {
        "attention": shape.layers * (2 * (hidden + width) + 2 * (hidden + kv)),
        "mlp": (shape.layers - sparse) * shape.mlp_matrices * (hidden + shape.ffn) + shared,
        "router": sparse * (hidden + shape.experts),
        "experts": sparse * shape.experts * 3 * (hidden + shape.expert_ffn),
    }
    return rank * sum(sides[target] for target in targets)


def _weights(shape: Shape, work: Work) -> float:
    other = shape.other * work.compute_bytes if work.with_other else 0
    if work.method == "qlora":
        return shape.linear * NF4_BYTES + (shape.text - shape.linear) * work.unquantized_bytes + other
    if work.method == "full":  # in 32 bit, beside what is trained; autocast keeps a copy of that in 16
        return shape.text * 4 + other + (0 if work.on_cpu else trainable(shape, work) * work.compute_bytes)
    return shape.text * work.compute_bytes + other


def _gathered(shape: Shape, work: Work, weights: float) -> float:
    """What FSDP2 has whole at a time: this layer, the next one, and the root with the embeddings."""
    root = shape.embeddings * (work.unquantized_bytes if work.method == "qlora" else work.compute_bytes)
    return root + 2 * (weights - root) / shape.layers


def _activations(shape: Shape, work: Work) -> tuple[float, float]:
    """(what the layers leave for the backward pass, what the layer at work needs beside that)."""
    tokens = work.rows * work.tokens
    hidden, width, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    experts = shape.experts if work.all_experts else shape.experts_per_token
    ffn = max(shape.ffn if shape.expert_layers < shape.layers else 0, shape.shared_ffn + experts * shape.expert_ffn)
    routed = 2 * experts * hidden if shape.experts else 0
    # Inputs of norms, of adapters and of the gate; on a GPU norms work in 32 bit and adapters keep a copy of their own.
    kept = 4 * hidden + 2 * width + 2 * kv + 4 * ffn + routed
    if not work.on_cpu:
        kept += 4 * hidden
    if work.method == "full":
        kept += 2 * hidden  # a norm's own weight needs what it is multiplied with
    else:
        kept += 7 * work.rank
    if work.masked:  # the mask as numbers, a row of it for each token; and keys and values once for each head
        kept += work.tokens + 2 * (width - kv)
    gradients = 2 * ffn + 2 * hidden
    matrix = hidden * max(ffn // max(experts, 1), width)
    buffer = matrix * work.compute_bytes if work.method == "qlora" else 0
    layer = tokens * work.compute_bytes * (kept + gradients) + buffer
    last = tokens * hidden * work.compute_bytes
    if work.checkpointing == "none":
        return (
            shape.layers * tokens * work.compute_bytes * kept + last,
            tokens * work.compute_bytes * gradients + buffer,
        )
    inputs = shape.layers * tokens * hidden * work.compute_bytes
    return (0.0 if work.checkpointing == "offloaded" else inputs + last), layer


def _stepping(shape: Shape, work: Work) -> float:
    """What torch's Adam needs beside its state, a matrix at a time: the root, and what it is divided by."""
    if work.method != "full":
        return 0.0
    return 2 * 4.0 * max(0 if shape.tied else shape.vocabulary * shape.hidden, shape.hidden * shape.ffn)


def _logits(shape: Shape, work: Work) -> float:
    tokens = work.rows * work.tokens
    if work.head == "learned":
        return tokens * work.learned * (shape.vocabulary * LOSS_BYTES + 2 * shape.hidden * work.compute_bytes)
    if work.head == "eighths":
        return tokens * shape.vocabulary * work.compute_bytes * (1 + 2 / 8)
    tile = min(tokens, TILE_TOKENS) * min(shape.vocabulary, TILE_VOCABULARY) * work.compute_bytes
    slice_of_head = min(shape.vocabulary, TILE_VOCABULARY) * shape.hidden * work.compute_bytes
    return tile + slice_of_head + tokens * shape.hidden * 4
