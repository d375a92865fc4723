"""A LoRA adapter, and what it makes of rows of its base: exactly what PEFT's `merge_and_unload` makes of them.

W + (alpha / rank) B A, the sum in fp32, rounded once to W's type; rank and alpha may differ by module, and rsLoRA
divides by the root of the rank. DoRA scales each row to its learned length; what modules_to_save names is replaced;
what was learned for one expert of Llama 4 goes into its place in the fused tensor (`experts.py`).
Whatever else an adapter may be is refused by name.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.core.errors import BadRecipe, StageFailed
from tuneline.stages.checkpoints.buffers import Room
from tuneline.stages.checkpoints.fused_experts import Delta, Fused, fused_name
from tuneline.stages.checkpoints.safetensors_files import DTYPES, Stored, part, stored

if TYPE_CHECKING:
    import torch

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_LORA = re.compile(r"base_model\.model\.(.+)\.lora_(A|B|magnitude_vector)(?:\.weight)?")
_SAVED = re.compile(r"base_model\.model\.(.+?)(?:\.modules_to_save)?\.(weight|bias)")

MERGED = {
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save"),
    # These say which modules are adapted, how they were trained, or where a library looks: no weight depends on them.
    *(
        "target_modules",
        "target_parameters",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "lora_dropout",
        "task_type",
    ),
    *("peft_version", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "runtime_config"),
    *("megatron_core", "qalora_group_size", "eva_config", "peft_type", "bias", "init_lora_weights"),
}
"""Settings of PEFT's LoraConfig that are understood; any other that is set is refused."""
ONLY = {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal")}
"""The values that are understood: other inits (PiSSA, OLoRA, CorDA, LoftQ) change the base."""


STRIP_BYTES = 512 << 10
"""Of sums in fp32 at a time: what a core's own cache holds."""


@dataclass(frozen=True)
class _Parts:
    """What is stored for one weight of the base."""

    a: Stored | None = None
    b: Stored | None = None
    magnitude: Stored | None = None
    scale: float = 1.0
    instead: Stored | None = None
    """The whole weight, of modules_to_save."""


class Adapter:
    """An adapter on disk; its weights are read when they are asked for.

    Raises:
        BadRecipe: a kind that cannot be merged exactly. StageFailed: weights and settings do not fit together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = _config(folder / CONFIG)
        self._refuse_what_is_not_understood()
        self._parts, self._fused = _folded(self._read())
        if not self.names:
            raise StageFailed(f"{folder / WEIGHTS}: no weights in it; train it again")

    @cached_property
    def names(self) -> frozenset[str]:
        """Weights of the base that it changes."""
        return frozenset(self._parts) | frozenset(self._fused)

    def refuse_another_base(self, base: Iterable[Stored], *, tied: bool) -> None:
        """Raise StageFailed unless all it changes is there in the same shape."""
        there = {tensor.name: tensor for tensor in base}
        if tied and "lm_head.weight" in self.names:
            raise BadRecipe(
                f"{self.folder / CONFIG}: modules_to_save: lm_head of a base whose output is tied to its embeddings "
                "cannot be merged exactly"
            )
        if missing := sorted(self.names - there.keys()):
            raise StageFailed(
                f"{self.folder}: it adapts {missing[0]}, which the base does not have; was it trained on another base?"
            )
        for name in sorted(self.names):
            tensor = there[name]
            shape = self._shape(name, tensor)
            if tensor.dtype not in DTYPES:
                raise StageFailed(
                    f"{tensor.file}: {name}: {tensor.dtype}: only {', '.join(DTYPES)} weights can be merged into"
                )
            if shape != tensor.shape:
                raise StageFailed(
                    f"{tensor.file}: {name}: {list(tensor.shape)}, but the adapter's is {list(shape)}; "
                    "was it trained on another base?"
                )
            if tied and name.endswith("embed_tokens.weight"):
                raise BadRecipe(
                    f"{self.folder / CONFIG}: modules_to_save: embed_tokens of a base whose output is tied to it "
                    "cannot be merged exactly"
                )

    def merged(self, name: str, weight: "torch.Tensor", first: int, last: int, room: Room) -> "torch.Tensor":
        """Rows `first` up to `last` of the tuned model's `name`, from the same rows of the base, in their type.

        They may lie in `room`.
        """
        import torch

        if name in self._fused:
            return self._fused[name].merged(weight, first, last, _float)
        parts = self._parts[name]
        if parts.instead:
            return part(parts.instead, first, last).to(weight.dtype)
        assert parts.a and parts.b
        a, b = _float(parts.a), _float(parts.b)[first:last]
        if exact := math.frexp(parts.scale)[0] == 0.5:  # a power of two: products and sums keep their digits
            b = b * parts.scale
        out = room.tensor("merged", weight.dtype, *weight.shape)
        strip = max(1, STRIP_BYTES // (4 * weight.shape[1]))
        delta, values = (room.tensor(what, torch.float32, strip, weight.shape[1]) for what in ("delta", "weight"))
        for at in range(0, len(weight), strip):
            count = min(strip, len(weight) - at)
            sums = torch.mm(b[at : at + count], a, out=delta[:count])
            if not exact:
                sums.mul_(parts.scale)
            sums.add_(values[:count].copy_(weight[at : at + count]))  # in fp32
            if parts.magnitude:
                length = torch.linalg.norm(sums, dim=1)
                sums.mul_((_float(parts.magnitude)[first + at : first + at + count] / length).view(-1, 1))
            out[at : at + count].copy_(sums)
        return out

    def _shape(self, name: str, tensor: Stored) -> tuple[int, ...]:
        if name in self._fused:
            return self._fused[name].misfit(tensor.shape) or tensor.shape
        return _shape(self._parts[name])

    def _read(self) -> dict[str, _Parts]:
        found: dict[str, dict[str, Any]] = {}
        for tensor in stored(self.folder / WEIGHTS):
            if lora := _LORA.fullmatch(tensor.name):
                found.setdefault(f"{lora[1]}.weight", {})[lora[2][0].lower()] = tensor
            elif (saved := _SAVED.fullmatch(tensor.name)) and self._is_saved(saved[1]):
                found[f"{saved[1]}.{saved[2]}"] = {"instead": tensor}
            else:
                where = f"{self.folder / WEIGHTS}: {tensor.name}"
                raise BadRecipe(f"{where}: not a LoRA weight; it cannot be merged exactly")
        return {name: self._checked(name, parts) for name, parts in found.items()}

    def _checked(self, name: str, parts: dict[str, Any]) -> _Parts:
        where = f"{self.folder / WEIGHTS}: {name}"
        if "instead" in parts:
            return _Parts(**parts)
        if not {"a", "b"} <= parts.keys():
            raise StageFailed(f"{where} has only one of lora_A and lora_B")
        if ("m" in parts) != bool(self.config.get("use_dora")):
            raise StageFailed(f"{where}: use_dora is {self.config.get('use_dora')}, its weights say otherwise")
        rank, alpha = self._rank_and_alpha(name.removesuffix(".weight"))
        if rank != parts["a"].shape[0]:
            raise StageFailed(f"{where}: rank {parts['a'].shape[0]}, but {CONFIG} says {rank}")
        scale = alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)
        return _Parts(parts["a"], parts["b"], parts.get("m"), scale)

    def _rank_and_alpha(self, module: str) -> tuple[int, float]:
        """As PEFT looks them up: the first pattern that matches the end of the module's name."""

        def of(pattern: str, default: str) -> Any:
            values = self.config.get(pattern) or {}
            return next(
                (v for key, v in values.items() if re.match(rf"(.*\.)?({key})$", module)), self.config.get(default)
            )

        found = of("rank_pattern", "r"), of("alpha_pattern", "lora_alpha")
        if not all(isinstance(value, int | float) and value > 0 for value in found):
            raise StageFailed(f"{self.folder / CONFIG}: r and lora_alpha of {module} are {found[0]!r} and {found[1]!r}")
        return found

    def _is_saved(self, module: str) -> bool:
        return any(module == name or module.endswith(f".{name}") for name in self.config.get("modules_to_save") or ())

    def _refuse_what_is_not_understood(self) -> None:
        for key, value in self.config.items():
            if (key in ONLY and value not in (None, *ONLY[key])) or (key not in MERGED and value):
                only = f"; only {', '.join(map(repr, ONLY[key]))}" if key in ONLY else ""
                raise BadRecipe(f"{self.folder / CONFIG}: {key}: {value!r} cannot be merged exactly{only}")


def _config(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        raise StageFailed(f"{file}: missing; train it again") from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StageFailed(f"{file}: no settings of an adapter; train it again")
    return found


def _folded(parts: dict[str, _Parts]) -> tuple[dict[str, _Parts], dict[str, Fused]]:
    """Those of the base's own names, and those of single experts by the fused tensor they lie in."""
    plain: dict[str, _Parts] = {}
    fused: dict[str, Fused] = {}
    for name, found in parts.items():
        place = fused_name(name)
        if place is None or found.magnitude or not (found.a and found.b):
            plain[name] = found
        else:
            fused.setdefault(place[0], Fused(place[0])).deltas[place[1:]] = Delta(found.a, found.b, found.scale)
    return plain, fused


def _shape(parts: _Parts) -> tuple[int, ...]:
    if parts.instead:
        return parts.instead.shape
    assert parts.a and parts.b
    return parts.b.shape[0], parts.a.shape[1]


@lru_cache(maxsize=8)
def _float(tensor: Stored) -> "torch.Tensor":
    """PEFT, too, computes in fp32, whatever type the adapter was saved in."""
    found = part(tensor, 0, tensor.rows).view(tensor.shape).float()
    if not found.isfinite().all():
        raise StageFailed(f"{tensor.file}: {tensor.name}: not all of it are finite numbers; train it again")
    return found
