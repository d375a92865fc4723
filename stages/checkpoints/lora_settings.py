"""The settings of a LoRA adapter (PEFT's `adapter_config.json`): can it be merged exactly, and how is it scaled?"""

import json
import math
import re
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRecipe, StageFailed

UNDERSTOOD_SETTINGS = {
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
UNDERSTOOD_VALUES = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
"""Settings of which only these values are understood: other inits (PiSSA, OLoRA, CorDA, LoftQ) change the base."""


class LoraSettings:
    """The settings in `file`.

    Raises:
        BadRecipe: an adapter kind that cannot be merged exactly. StageFailed: the file is missing or damaged.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._settings = _read_settings(file)
        for key, value in self._settings.items():
            values = UNDERSTOOD_VALUES.get(key)
            if (values and value not in (None, *values)) or (key not in UNDERSTOOD_SETTINGS and value):
                only = f"; only {', '.join(map(repr, values))}" if values else ""
                raise BadRecipe(f"{file}: {key}: {value!r} cannot be merged exactly{only}")

    @property
    def use_dora(self) -> Any:
        """The setting as it is written; None if it is absent."""
        return self._settings.get("use_dora")

    def saves(self, module: str) -> bool:
        """Return whether the whole weights of `module` are stored (`modules_to_save`)."""
        names = self._settings.get("modules_to_save") or ()
        return any(module == name or module.endswith(f".{name}") for name in names)

    def scale(self, module: str) -> float:
        """Return the factor of B A for `module`: alpha / rank, or alpha / √rank for rsLoRA."""
        rank, alpha = self.rank_and_alpha(module)
        return alpha / (math.sqrt(rank) if self._settings.get("use_rslora") else rank)

    def rank_and_alpha(self, module: str) -> tuple[int, float]:
        """Return rank and alpha of `module`, looked up as PEFT does: the first pattern that matches its name's end.

        Raises:
            StageFailed: one of them is not a positive number.
        """
        rank, alpha = self._lookup("rank_pattern", "r", module), self._lookup("alpha_pattern", "lora_alpha", module)
        if not all(isinstance(value, int | float) and value > 0 for value in (rank, alpha)):
            raise StageFailed(f"{self.file}: r and lora_alpha of {module} are {rank!r} and {alpha!r}")
        return rank, alpha

    def _lookup(self, pattern: str, default: str, module: str) -> Any:
        values = self._settings.get(pattern) or {}
        matching = (value for key, value in values.items() if re.match(rf"(.*\.)?({key})$", module))
        return next(matching, self._settings.get(default))


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text())
    except FileNotFoundError:
        raise StageFailed(f"{file}: missing; train it again") from None
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise StageFailed(f"{file}: no settings of an adapter; train it again")
    return settings
