"""Peak memory of training on one GPU, by part, computed from a model's shape without torch or weights.

The parts are what is allocated at the peak of a step: everything that stays, what the layers keep for the backward
pass, and the largest of three things that are never allocated together: the layer being computed, the loss over the
vocabulary, and the optimizer's step on one matrix. All sizes are in bytes. Each factor is a tensor one can name;
calibrated factors say so.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from tuneline.configs.hardware import GIB
from tuneline.configs.models import Shape

QUANT_STATE_BYTES = 1 / 64 + 4 / (64 * 256)
"""Of a parameter in NF4: the scale of 64 is a byte, with double quantization, and 256 of those have one of four."""
NF4_BYTES = 0.5 + QUANT_STATE_BYTES
"""Of a parameter in NF4 with double quantization: 4 bits and its share of the scales."""
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""What TRL's fused head multiplies at a time (trl/kernels/chunked_logprob.py) instead of computing all logits."""
CONTEXT_BYTES = 0.8 * GIB
"""Of the CUDA context, with cuBLAS's workspace."""
FRAGMENTATION = 0.03
"""Share of everything else that the allocator holds and cannot use."""
SHARDED_OPTIMIZER_BYTES = 8
"""Per trained parameter: AdamW's two states in 32 bit, since 8-bit Adam does not work sharded
(choose_optimizer in stages/train/loop/arguments.py)."""
LOSS_BYTES = 12
"""Per logit of a token in the loss: its log-softmax, the gradient of that and its own, in 32 bit
(F.cross_entropy in stages/train/loop/loss.py)."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A training as its memory depends on it: method, adapter, batch, precision and sharding."""

    method: str = "qlora"
    rank: int = 16
    targets: frozenset[str] = frozenset({"attention", "mlp"})
    modules_to_save: frozenset[str] = frozenset()
    """Trained whole beside the adapter: `embeddings`, `head`."""
    rows: int = 1
    """Rows computed at a time on one GPU."""
    tokens: int = 2048
    """Tokens of a row, with its padding."""
    checkpointing: Literal["layers", "offloaded", "none"] = "layers"
    compute_bytes: int = 2
    """Per number in activations and unquantized weights: 2 on a GPU, 4 on the CPU."""
    unquantized_bytes: int = 4
    """Per parameter that a 4-bit base does not quantize (embeddings, norms): PEFT casts it to 32 bit."""
    trained_bytes: int = 4
    optimizer_bytes: float = 2.06
    """Per trained parameter: 8-bit Adam has two states and their scales; 8 in 32 bit."""
    head: Literal["learned", "eighths", "tiled"] = "learned"
    """How the loss is computed: `learned` is ours, over the tokens in the loss; `eighths` is torchtune's, in 16 bit and
    an eighth at a time; `tiled` are kernels that never hold more than a tile of the logits."""
    all_experts: bool = False
    """Whether every token runs through every expert, as in Transformers' own Llama 4."""
    with_other: bool = False
    """Whether parameters outside the text model are loaded too."""
    gpus: int = 1
    sharded: bool = False
    """FSDP2 instead of DDP."""
    on_cpu: bool = False
    masked: bool = False
    """Whether torch's own attention gets a mask, for padding or packed rows; other kernels need none."""
    loss_share: float = 1.0
    """Share of tokens in the loss; logits are computed for no others."""

    @classmethod
    def on_the_cpu(cls, **fields: Any) -> "Workload":
        """Return a workload for the CPU: in 32 bit, with torch's own Adam."""
        fixed: dict[str, Any] = {"checkpointing": "none", "compute_bytes": 4, "optimizer_bytes": 8, "on_cpu": True}
        return cls(**fixed | fields)


@dataclass(frozen=True)
class MemoryParts:
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
        """What torch's allocator reports: the total without the CUDA context and fragmentation."""
        return self.total - self.overhead

    @property
    def total(self) -> float:
        return float(sum(dataclasses.astuple(self)))


def estimate_peak_memory(shape: Shape, work: Workload) -> MemoryParts:
    """Return the peak memory of one of `work.gpus` GPUs."""
    trained, shards = count_trained_parameters(shape, work), work.gpus if work.sharded else 1
    weights = estimate_weights(shape, work)
    gathered = _estimate_gathered(shape, work, weights) if work.sharded else 0.0
    buckets = trained * work.trained_bytes if work.gpus > 1 and not work.sharded else 0.0  # DDP reduces copies
    activations = _estimate_activations(shape, work)
    logits, optimizer_step = _estimate_logits(shape, work), _estimate_optimizer_step(shape, work)
    beside_logits = max(activations.stored + max(0.0, activations.layer - logits), optimizer_step - logits)
    parts = MemoryParts(
        weights=weights / shards + estimate_unsharded_scales(shape, work) + gathered,
        adapter=trained * work.trained_bytes / shards,
        gradients=trained * work.trained_bytes / shards + buckets,
        optimizer=trained * (SHARDED_OPTIMIZER_BYTES if work.sharded else work.optimizer_bytes) / shards,
        activations=beside_logits,
        logits=logits,
        overhead=0.0,
    )
    overhead = 0.0 if work.on_cpu else CONTEXT_BYTES + FRAGMENTATION * parts.total
    return dataclasses.replace(parts, overhead=overhead)


def count_trained_parameters(shape: Shape, work: Workload) -> int:
    """Return the number of trained parameters."""
    if work.method == "full":  # one matrix that is both embeddings stays as it is
        return shape.text - (shape.embeddings if shape.tied else 0)
    saved = len(work.modules_to_save) * shape.vocabulary * shape.hidden
    return count_adapter_parameters(shape, work.rank, work.targets) + saved


def count_adapter_parameters(shape: Shape, rank: int, targets: Iterable[str]) -> int:
    """Return the number of parameters of a LoRA adapter on `targets`.

    `mlp` includes the shared expert; `experts` is every projection of every expert.
    """
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


def estimate_unsharded_scales(shape: Shape, work: Workload) -> float:
    """Return what a sharded 4-bit base takes beside its share: FSDP2 leaves the scales whole in every process."""
    if not work.sharded or work.method != "qlora":
        return 0.0
    return shape.linear * QUANT_STATE_BYTES * (1 - 1 / work.gpus)


def estimate_weights(shape: Shape, work: Workload) -> float:
    """Return the base's size in memory, unsharded."""
    other = shape.other * work.compute_bytes if work.with_other else 0
    if work.method == "qlora":
        return shape.linear * NF4_BYTES + (shape.text - shape.linear) * work.unquantized_bytes + other
    if work.method == "full":  # in 32 bit; autocast keeps a copy of what is trained in 16 bit
        copied = 0 if work.on_cpu else count_trained_parameters(shape, work) * work.compute_bytes
        return shape.text * 4 + other + copied
    return shape.text * work.compute_bytes + other


def _estimate_gathered(shape: Shape, work: Workload, weights: float) -> float:
    """Return what FSDP2 holds unsharded at a time: this layer, the next one, and the root with the embeddings."""
    root = shape.embeddings * (work.unquantized_bytes if work.method == "qlora" else work.compute_bytes)
    return root + 2 * (weights - root) / shape.layers


@dataclass(frozen=True)
class _Activations:
    stored: float
    """What all layers keep for the backward pass."""
    layer: float
    """What the layer being computed needs on top."""


def _estimate_activations(shape: Shape, work: Workload) -> _Activations:
    tokens = work.rows * work.tokens
    hidden, width, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    experts = shape.experts if work.all_experts else shape.experts_per_token
    ffn = max(shape.ffn if shape.expert_layers < shape.layers else 0, shape.shared_ffn + experts * shape.expert_ffn)
    routed = 2 * experts * hidden if shape.experts else 0
    # Inputs of norms, adapters and the gate. On a GPU, norms compute in 32 bit and adapters keep a copy of their own.
    per_token = 4 * hidden + 2 * width + 2 * kv + 4 * ffn + routed
    if not work.on_cpu:
        per_token += 4 * hidden
    if work.method == "full":
        per_token += 2 * hidden  # the gradient of a norm's weight needs the norm's input
    else:
        per_token += 7 * work.rank
    if work.masked:  # the mask as numbers, a row per token; and keys and values repeated for each head
        per_token += work.tokens + 2 * (width - kv)
    gradients = 2 * ffn + 2 * hidden
    matrix = hidden * max(ffn // max(experts, 1), width)
    buffer = matrix * work.compute_bytes if work.method == "qlora" else 0
    layer = tokens * work.compute_bytes * (per_token + gradients) + buffer
    last = tokens * hidden * work.compute_bytes
    if work.checkpointing == "none":
        return _Activations(
            stored=shape.layers * tokens * work.compute_bytes * per_token + last,
            layer=tokens * work.compute_bytes * gradients + buffer,
        )
    inputs = shape.layers * tokens * hidden * work.compute_bytes
    return _Activations(stored=0.0 if work.checkpointing == "offloaded" else inputs + last, layer=layer)


def _estimate_optimizer_step(shape: Shape, work: Workload) -> float:
    """Return what torch's Adam needs beside its state for one matrix: the root, and the quotient with it."""
    if work.method != "full":
        return 0.0
    return 2 * 4.0 * max(0 if shape.tied else shape.vocabulary * shape.hidden, shape.hidden * shape.ffn)


def _estimate_logits(shape: Shape, work: Workload) -> float:
    tokens = work.rows * work.tokens
    if work.head == "learned":
        return tokens * work.loss_share * (shape.vocabulary * LOSS_BYTES + 2 * shape.hidden * work.compute_bytes)
    if work.head == "eighths":
        return tokens * shape.vocabulary * work.compute_bytes * (1 + 2 / 8)
    tile = min(tokens, TILE_TOKENS) * min(shape.vocabulary, TILE_VOCABULARY) * work.compute_bytes
    slice_of_head = min(shape.vocabulary, TILE_VOCABULARY) * shape.hidden * work.compute_bytes
    return tile + slice_of_head + tokens * shape.hidden * 4
