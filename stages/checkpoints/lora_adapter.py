"""A LoRA adapter on disk, merged into rows of its base as PEFT's `merge_and_unload` does.

W + (alpha / rank) B A, the sum in fp32, rounded once to the type that is asked for; in W's type, PEFT's bits. bf16
loses much of a small update, so that files in other types are made of the fp32 sums. Rank and alpha may differ by
module, and rsLoRA divides by the root of the rank. DoRA scales each row to its learned length. Weights of
`modules_to_save` replace the base's. An update of a single Llama 4 expert is added to the fused tensor
(`fused_experts.py`). Any other kind of adapter is refused by name (`lora_settings.py`).
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tuneline.core.errors import BadRecipe, StageFailed
from tuneline.stages.checkpoints.buffers import BufferPool
from tuneline.stages.checkpoints.fused_experts import FusedUpdate, LoraDelta, locate_expert
from tuneline.stages.checkpoints.lora_settings import LoraSettings
from tuneline.stages.checkpoints.safetensors_files import DTYPES, StoredTensor, list_tensors, load_rows

if TYPE_CHECKING:
    import torch

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_LORA = re.compile(r"base_model\.model\.(.+)\.lora_(A|B|magnitude_vector)(?:\.weight)?")
_SAVED = re.compile(r"base_model\.model\.(.+?)(?:\.modules_to_save)?\.(weight|bias)")

STRIP_BYTES = 512 << 10
"""Size of the fp32 sums that are computed at a time: they fit a core's own cache."""


@dataclass(frozen=True)
class _WeightUpdate:
    """What the adapter stores for one weight of the base."""

    a: StoredTensor | None = None
    b: StoredTensor | None = None
    magnitude: StoredTensor | None = None
    """DoRA's learned length of each row."""
    scale: float = 1.0
    replacement: StoredTensor | None = None
    """The whole weight, if it is in modules_to_save."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape the base's weight must have."""
        if self.replacement:
            return self.replacement.shape
        assert self.a and self.b
        return self.b.shape[0], self.a.shape[1]


class Adapter:
    """An adapter on disk; its weights are read when they are used.

    Raises:
        BadRecipe: a kind that cannot be merged exactly. StageFailed: weights and settings contradict each other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = LoraSettings(folder / CONFIG)
        self._updates, self._fused = _split_fused(self._read_updates())
        if not self.weight_names:
            raise StageFailed(f"{folder / WEIGHTS}: no weights in it; train it again")

    @cached_property
    def weight_names(self) -> frozenset[str]:
        """The base's weights that the adapter changes."""
        return frozenset(self._updates) | frozenset(self._fused)

    def check_base(self, base: Iterable[StoredTensor], *, tied: bool) -> None:
        """Check that the adapter can be merged into `base`. `tied`: input and output embeddings are one matrix.

        Raises:
            BadRecipe: it changes one of two tied matrices. StageFailed: a weight is missing or has another shape.
        """
        tensors = {tensor.name: tensor for tensor in base}
        if tied and "lm_head.weight" in self.weight_names:
            raise BadRecipe(
                f"{self.folder / CONFIG}: modules_to_save: lm_head of a base whose output is tied to its embeddings "
                "cannot be merged exactly"
            )
        if missing := sorted(self.weight_names - tensors.keys()):
            raise StageFailed(
                f"{self.folder}: it adapts {missing[0]}, which the base does not have; was it trained on another base?"
            )
        for name in sorted(self.weight_names):
            self._check_weight(tensors[name])
            if tied and name.endswith("embed_tokens.weight"):
                raise BadRecipe(
                    f"{self.folder / CONFIG}: modules_to_save: embed_tokens of a base whose output is tied to it "
                    "cannot be merged exactly"
                )

    def _check_weight(self, tensor: StoredTensor) -> None:
        name = tensor.name
        if tensor.dtype not in DTYPES:
            raise StageFailed(
                f"{tensor.file}: {name}: {tensor.dtype}: only {', '.join(DTYPES)} weights can be merged into"
            )
        if name in self._fused:
            shape = self._fused[name].mismatched_shape(tensor.shape) or tensor.shape
        else:
            shape = self._updates[name].shape
        if shape != tensor.shape:
            raise StageFailed(
                f"{tensor.file}: {name}: {list(tensor.shape)}, but the adapter's is {list(shape)}; "
                "was it trained on another base?"
            )

    def merge_rows(
        self, name: str, weight: "torch.Tensor", first: int, last: int, buffers: BufferPool, dtype: "torch.dtype"
    ) -> "torch.Tensor":
        """Return rows `first` to `last` (exclusive) of the tuned model's weight `name`, in the type `dtype`.

        `weight` holds these rows of the base, [rows, columns]. The result may be in memory of `buffers`.
        """
        import torch

        if name in self._fused:
            return self._fused[name].merge_rows(weight, first, last, _load_fp32).to(dtype)
        update = self._updates[name]
        if update.replacement:
            return load_rows(update.replacement, first, last).to(dtype)
        assert update.a and update.b
        a, b = _load_fp32(update.a), _load_fp32(update.b)[first:last]
        if exact := math.frexp(update.scale)[0] == 0.5:  # a power of two: products and sums keep their digits
            b = b * update.scale
        merged = buffers.tensor(("merged", dtype), dtype, *weight.shape)
        strip = max(1, STRIP_BYTES // (4 * weight.shape[1]))
        delta, values = (buffers.tensor(use, torch.float32, strip, weight.shape[1]) for use in ("delta", "weight"))
        for at in range(0, len(weight), strip):
            count = min(strip, len(weight) - at)
            sums = torch.mm(b[at : at + count], a, out=delta[:count])
            if not exact:
                sums.mul_(update.scale)
            sums.add_(values[:count].copy_(weight[at : at + count]))  # in fp32
            if update.magnitude:
                lengths = torch.linalg.norm(sums, dim=1)
                sums.mul_((_load_fp32(update.magnitude)[first + at : first + at + count] / lengths).view(-1, 1))
            merged[at : at + count].copy_(sums)
        return merged

    def _read_updates(self) -> dict[str, _WeightUpdate]:
        tensors: dict[str, dict[str, StoredTensor]] = {}
        for tensor in list_tensors(self.folder / WEIGHTS):
            if tensor.dtype not in DTYPES:
                raise StageFailed(
                    f"{tensor.file}: {tensor.name}: {tensor.dtype} is no type that an adapter is saved in"
                )
            if lora := _LORA.fullmatch(tensor.name):
                tensors.setdefault(f"{lora[1]}.weight", {})[lora[2][0].lower()] = tensor
            elif (saved := _SAVED.fullmatch(tensor.name)) and self.settings.saves(saved[1]):
                tensors[f"{saved[1]}.{saved[2]}"] = {"replacement": tensor}
            else:
                where = f"{self.folder / WEIGHTS}: {tensor.name}"
                raise BadRecipe(f"{where}: not a LoRA weight; it cannot be merged exactly")
        return {name: self._to_update(name, parts) for name, parts in tensors.items()}

    def _to_update(self, name: str, tensors: dict[str, StoredTensor]) -> _WeightUpdate:
        where = f"{self.folder / WEIGHTS}: {name}"
        if "replacement" in tensors:
            return _WeightUpdate(replacement=tensors["replacement"])
        if not {"a", "b"} <= tensors.keys():
            raise StageFailed(f"{where} has only one of lora_A and lora_B")
        if ("m" in tensors) != bool(self.settings.use_dora):
            raise StageFailed(f"{where}: use_dora is {self.settings.use_dora}, its weights say otherwise")
        module = name.removesuffix(".weight")
        rank, _ = self.settings.rank_and_alpha(module)
        a, b, magnitude = tensors["a"], tensors["b"], tensors.get("m")
        if len(a.shape) != 2 or b.shape[1:] != a.shape[:1] or (magnitude and math.prod(magnitude.shape) != b.shape[0]):
            shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors.values())
            raise StageFailed(f"{where}: its parts, {shapes}, do not fit each other; train it again")
        if rank != a.shape[0]:
            raise StageFailed(f"{where}: rank {a.shape[0]}, but {CONFIG} says {rank}")
        return _WeightUpdate(a, b, magnitude, self.settings.scale(module))


def _split_fused(updates: dict[str, _WeightUpdate]) -> tuple[dict[str, _WeightUpdate], dict[str, FusedUpdate]]:
    """Return the updates of weights that the base stores under their own name, and those of its fused tensors."""
    plain: dict[str, _WeightUpdate] = {}
    fused: dict[str, FusedUpdate] = {}
    for name, update in updates.items():
        slot = locate_expert(name)
        if slot is None or update.magnitude or not (update.a and update.b):
            plain[name] = update
        else:
            delta = LoraDelta(update.a, update.b, update.scale)
            fused.setdefault(slot.tensor, FusedUpdate(slot.tensor)).deltas[slot.expert, slot.part] = delta
    return plain, fused


@lru_cache(maxsize=8)
def _load_fp32(tensor: StoredTensor) -> "torch.Tensor":
    """Return a tensor of the adapter in fp32: PEFT, too, computes in it, whatever type the adapter was saved in."""
    values = load_rows(tensor, 0, tensor.rows).view(tensor.shape).float()
    if not values.isfinite().all():
        raise StageFailed(f"{tensor.file}: {tensor.name}: has values that are not finite; train it again")
    return values
