"""The settings of a LoRA adapter (PEFT's `adapter_config.json`): can it be merged exactly, and how is it scaled?"""

import math
import re
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRecipe, StageFailed
from tuneline.core.user_files import read_json

LARGEST = 1e6
"""Of ranks and alphas: more is no setting that anybody trains with."""
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
                raise BadRecipe(f"{file}: {key}: {str(value)[:80]!r} cannot be merged exactly{only}")
        self._saved: list[str] = self._expect("modules_to_save", list) or []
        self._patterns = {name: self._expect(name, dict) or {} for name in ("rank_pattern", "alpha_pattern")}

    @property
    def use_dora(self) -> Any:
        """The setting as it is written; None if it is absent."""
        return self._settings.get("use_dora")

    def saves(self, module: str) -> bool:
        """Return whether the whole weights of `module` are stored (`modules_to_save`)."""
        return any(module == name or module.endswith(f".{name}") for name in self._saved)

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
        if not all(isinstance(value, int | float) and 0 < value < LARGEST for value in (rank, alpha)):
            raise StageFailed(f"{self.file}: r and lora_alpha of {module} are {str(rank)[:80]} and {str(alpha)[:80]}")
        return rank, alpha

    def _lookup(self, pattern: str, default: str, module: str) -> Any:
        values = self._patterns[pattern]
        try:
            matching = (value for key, value in values.items() if re.match(rf"(.*\.)?({key})$", module))
            return next(matching, self._settings.get(default))
        except (re.error, RecursionError, OverflowError) as error:
            raise StageFailed(f"{self.file}: {pattern}: not a pattern: {error}; train it again") from None

    def _expect(self, key: str, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
        """Return a setting that is a list of texts, or an object; None if it is absent."""
        value = self._settings.get(key)
        if value and not (isinstance(value, kind) and all(isinstance(item, str) for item in value)):
            raise StageFailed(f"{self.file}: {key}: {str(value)[:80]!r}; train it again")
        return value


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise StageFailed(f"{file}: missing; train it again")
    settings = read_json(file, StageFailed)
    if not isinstance(settings, dict):
        raise StageFailed(f"{file}: not an adapter's settings; train it again")
    return settings
