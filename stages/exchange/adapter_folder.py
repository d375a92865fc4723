"""An adapter that another trainer made: what it is, read without running or trusting anything in it.

Of its weights only the headers are read. Its settings are written anew from what is understood, so that no pattern,
module or file that it names reaches PEFT.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import Recipe
from tuneline.configs.training import Train
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import BadRequest, StageFailed, TunelineError
from tuneline.core.files import sha256
from tuneline.core.user_files import read_json
from tuneline.stages.checkpoints.base_config import is_tied, read_config
from tuneline.stages.checkpoints.lora_adapter import CONFIG, WEIGHTS, Adapter
from tuneline.stages.checkpoints.safetensors_files import list_model_tensors
from tuneline.stages.train.model.adapter_targets import ARCHITECTURES, DENSE_MODULES, SAVED_MODULES

PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "pytorch_adapter.bin")
PLAIN_NAME = re.compile(r"[\w.]+")
"""A key of `rank_pattern` that is a module's name; anything else is an expression, which is not run."""
UNUSABLE = (
    "target_parameters",
    "layer_replication",
    "trainable_token_indices",
    "megatron_config",
    "alora_invocation_tokens",
)
"""Settings of PEFT under which the weights mean something else than B A added to a Linear."""
COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class ForeignAdapter:
    """A LoRA adapter in PEFT's format, whose settings can be converted."""

    folder: Path
    settings: dict[str, Any]
    """Its `adapter_config.json`, as it is: untrusted."""
    weights: Adapter
    modules: tuple[str, ...]
    """Adapted modules, by their whole names."""
    sha256: str
    """Of its weights."""

    @property
    def saved(self) -> list[str]:
        """Modules whose whole weights it has."""
        return list(self.settings.get("modules_to_save") or [])

    @property
    def trained_on(self) -> str:
        """The base that its settings name; empty if they name none."""
        name = self.settings.get("base_model_name_or_path")
        return name if isinstance(name, str) else ""

    def to_train(self) -> Train:
        """Return what a recipe says of it: `r` and `lora_alpha`, and each group of which a module is adapted."""
        names = {name.rpartition(".")[2] for name in self.modules}
        groups = tuple(group for group, members in DENSE_MODULES.items() if names & set(members))
        saved = {module: name for name, module in SAVED_MODULES.items()}
        return Train.model_validate(
            {
                "method": "lora",
                "rank": self.settings["r"],
                "alpha": max(1, round(self.settings["lora_alpha"])),
                "targets": groups,
                "modules_to_save": [saved[name] for name in self.saved],
                "adopted": self.sha256,
            }
        )


def read_adapter(folder: Path) -> ForeignAdapter:
    """Return the adapter in a folder.

    Raises:
        BadRequest: no adapter, a pickle, damaged, or of a kind that cannot be converted; the setting is named.
    """
    _refuse_other_files(folder)
    settings = read_json(folder / CONFIG, BadRequest)
    if not isinstance(settings, dict):
        raise BadRequest(f"{folder / CONFIG}: not an adapter's settings; PEFT's `save_pretrained` writes them")
    _refuse_settings(folder / CONFIG, settings)
    try:
        weights = Adapter(folder)
        adapted = [
            name.removesuffix(".weight") for name in weights.weight_names if not weights.settings.saves(_module(name))
        ]
        for module in adapted:
            weights.settings.rank_and_alpha(module)
    except TunelineError as error:
        raise BadRequest(str(error).removesuffix("; train it again")) from None
    if unknown := sorted(name for name in adapted if name.rpartition(".")[2] not in sum(DENSE_MODULES.values(), ())):
        raise BadRequest(f"{folder / WEIGHTS}: {unknown[0]}: known are {', '.join(sum(DENSE_MODULES.values(), ()))}")
    if not adapted:
        raise BadRequest(f"{folder / WEIGHTS}: no module is adapted")
    return ForeignAdapter(folder, settings, weights, tuple(sorted(adapted)), sha256(folder / WEIGHTS))


def _module(weight: str) -> str:
    return weight.rpartition(".")[0]


def _refuse_other_files(folder: Path) -> None:
    if not folder.is_dir():
        raise BadRequest(f"{folder}: no such folder; an adapter is the folder that PEFT's `save_pretrained` wrote")
    if (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file():
        return
    if pickle := next((name for name in PICKLES if (folder / name).exists()), None):
        raise BadRequest(
            f"{folder / pickle}: a pickle, which could run any code; save it as {WEIGHTS} with "
            "`model.save_pretrained(FOLDER)` of a current PEFT"
        )
    missing = WEIGHTS if (folder / CONFIG).is_file() else CONFIG
    raise BadRequest(f"{folder / missing}: missing; an adapter is {CONFIG} and {WEIGHTS}, as PEFT writes them")


def _refuse_settings(file: Path, settings: dict[str, Any]) -> None:
    """Raise BadRequest for settings that cannot be converted, before any of them is used."""
    if (kind := settings.get("peft_type")) != "LORA":
        raise BadRequest(f"{file}: peft_type: {str(kind)[:80]!r}: only LORA can be converted")
    for key in UNUSABLE:
        if settings.get(key):
            raise BadRequest(f"{file}: {key}: cannot be converted; merge the adapter with its own trainer instead")
    for key in ("r", "lora_alpha"):
        value = settings.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 10_000:
            raise BadRequest(f"{file}: {key}: {str(value)[:80]!r}: a positive number")
    if not isinstance(settings["r"], int):
        raise BadRequest(f"{file}: r: {settings['r']!r}: a whole number")
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = settings.get(key) or {}
        names = patterns if isinstance(patterns, dict) else [patterns]
        if other := next((name for name in names if not PLAIN_NAME.fullmatch(str(name))), None):
            raise BadRequest(f"{file}: {key}: {str(other)[:80]!r}: an expression; only names of modules are taken")
    saved = settings.get("modules_to_save") or []
    if others := [name for name in saved if name not in SAVED_MODULES.values()] if isinstance(saved, list) else [saved]:
        known = ", ".join(SAVED_MODULES.values())
        raise BadRequest(f"{file}: modules_to_save: {str(others[0])[:80]!r}: only {known} can be converted")


def check_fit(adapter: ForeignAdapter, recipe: Recipe, base: Artifact) -> str | None:
    """Check that an adapter is of this base; return a remark if its settings name another one.

    Raises:
        BadRequest: another architecture or revision, or a weight that the base does not have in this shape.
    """
    config = read_config(base.path)
    model_type = str(config.get("model_type"))
    if model_type not in ARCHITECTURES or model_type.startswith("llama4"):
        raise BadRequest(f"base: {recipe.base}: a {model_type}: adapters of Llama and Mistral alone can be adopted")
    _refuse_other_revision(adapter, recipe)
    try:
        adapter.weights.check_base(list_model_tensors(base.path), tied=is_tied(config))
    except (StageFailed, TunelineError) as error:
        raise BadRequest(str(error)) from None
    named = adapter.trained_on
    if not named or named == recipe.base:
        return None
    return f"{adapter.folder / CONFIG}: base_model_name_or_path: {named[:200]}: taken to be {recipe.base}, as you say"


def _refuse_other_revision(adapter: ForeignAdapter, recipe: Recipe) -> None:
    revision = adapter.settings.get("revision")
    if not isinstance(revision, str) or not COMMIT.fullmatch(revision) or adapter.trained_on != recipe.base:
        return
    if recipe.revision and not recipe.revision.startswith(revision):
        raise BadRequest(
            f"{adapter.folder / CONFIG}: revision: trained on {revision[:12]} of {recipe.base}, not on "
            f"{recipe.revision[:12]}; give --revision {revision}"
        )


def normalize_settings(adapter: ForeignAdapter, recipe: Recipe, layers: int) -> dict[str, Any]:
    """Return `adapter_config.json` as it is stored: what is understood of it, in plain names."""
    scales = {module: adapter.weights.settings.rank_and_alpha(module) for module in adapter.modules}
    common = adapter.settings["r"], adapter.settings["lora_alpha"]
    return {
        "alpha_pattern": {module: alpha for module, (_, alpha) in scales.items() if alpha != common[1]},
        "base_model_name_or_path": recipe.base,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": common[1],
        "lora_dropout": 0.0,
        "modules_to_save": sorted(adapter.saved) or None,
        "peft_type": "LORA",
        "r": common[0],
        "rank_pattern": {module: rank for module, (rank, _) in scales.items() if rank != common[0]},
        "revision": recipe.revision,
        "target_modules": _target_names(adapter.modules, layers),
        "task_type": "CAUSAL_LM",
        "use_dora": bool(adapter.settings.get("use_dora")),
        "use_rslora": bool(adapter.settings.get("use_rslora")),
    }


def _target_names(modules: tuple[str, ...], layers: int) -> list[str]:
    """Return the last name of modules that every layer has adapted, as other programs read it, else whole names."""
    counts = Counter(name.rpartition(".")[2] for name in modules)
    whole = {name for name, count in counts.items() if count == layers}
    return sorted(whole | {module for module in modules if module.rpartition(".")[2] not in whole})
