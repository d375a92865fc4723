"""The files a base consists of: which are fetched, which must be present, and which are refused."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tuneline.configs.models import FAMILIES
from tuneline.core import user_files
from tuneline.core.errors import BadRecipe
from tuneline.stages.fetch.base_checks import check_base

FETCHED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
ADAPTER_CONFIG = "adapter_config.json"
OTHER_LAYOUTS = ("*/*", "consolidated*", "params.json", "pytorch_model*")
"""Subfolders, Meta's and Mistral's own layout, and pickles with their index."""
NOT_FETCHED = (*OTHER_LAYOUTS, "manifest.json", "draft.json", ADAPTER_CONFIG, "adapter_model*")
"""Other formats of the same weights, names that an artifact uses itself, and an adapter that lies beside a base:
transformers would load it with the base, without a word."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
META_WEIGHTS = "consolidated*.pth"
"""Weights in the layout of Meta's own download."""


def is_fetched(name: str) -> bool:
    """Whether a file of this name is part of a base."""
    return matches(name, FETCHED) and not matches(name, NOT_FETCHED)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether `name` matches any of the glob patterns."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def fetched_files(folder: Path) -> list[Path]:
    """Return the files of `folder` that are part of a base, sorted by name."""
    return sorted(f for f in folder.iterdir() if f.is_file() and is_fetched(f.name))


def refuse_unusable(folder: Path) -> None:
    """Raise BadRecipe unless `folder` holds a Llama whose config, tokenizer and weights belong together."""
    refuse_incomplete(str(folder), [f.name for f in folder.iterdir()], folder)
    config = folder / "config.json"
    content = read_json(config)
    refuse_family(f"{config}: model_type:", content.get("model_type"))
    check_base(folder, content)


def refuse_incomplete(where: str, names: list[str], folder: Path | None = None) -> None:
    """Raise BadRecipe unless `names` include a config, a tokenizer and weights in safetensors.

    `folder` is where they are, if they are here.
    """
    has_safetensors = any(fnmatch(name, "*.safetensors") and is_fetched(name) for name in names)
    if not has_safetensors and (meta_weights := [name for name in names if fnmatch(name, META_WEIGHTS)]):
        raise BadRecipe(pickle_remedy(where, meta_weights[0]))
    if not has_safetensors and ADAPTER_CONFIG in names:
        raise BadRecipe(_adapter_remedy(where, folder))
    pickles = [name for name in names if matches(name, PICKLES)]
    if "config.json" in names and not has_safetensors and pickles:
        raise BadRecipe(pickle_remedy(where, pickles[0]))
    for required in ("config.json", "tokenizer.json"):
        if required not in names:
            raise BadRecipe(
                f"base: {where}: no {required}; a base is a Hugging Face model folder with a fast tokenizer"
                + _slow_tokenizer_remedy(required, names, folder)
            )
    if not has_safetensors:
        raise BadRecipe(f"base: {where}: no weights (*.safetensors)")


def _adapter_remedy(where: str, folder: Path | None) -> str:
    """Return the error message for a folder that holds an adapter alone, with the base that it names."""
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") if folder else None
    name = f"{base!r}" if isinstance(base, str) and base else "the model it was trained on"
    return (
        f"base: {where}: this is an adapter (LoRA), not a model: write `base:` {name}, its base; to continue training\n"
        "an adapter of a Tuneline run, name that run in `train.init_from`"
    )


def _slow_tokenizer_remedy(required: str, names: list[str], folder: Path | None) -> str:
    if required != "tokenizer.json" or "tokenizer.model" not in names:
        return ""
    source = folder or "FOLDER"
    return (
        f";\n`tuneline models import {source} NEW_FOLDER` creates one from tokenizer.model; then write `base: "
        "NEW_FOLDER`"
    )


def refuse_family(where: str, family: Any) -> None:
    """Raise BadRecipe unless `family` (a `model_type`) is one that Tuneline trains."""
    if family not in FAMILIES:
        raise BadRecipe(f"{where} {family!r}: Tuneline trains Llamas only ({', '.join(FAMILIES)})")


def pickle_remedy(where: str, pickle: str) -> str:
    """Return the error message for weights that exist only as a pickle, with the way to safetensors."""
    problem = f"base: {where}: weights are only available as a pickle ({pickle}), which can run any code when loaded;\n"
    if fnmatch(pickle, "*.pth"):
        return problem + (
            "a .pth is Meta's own format: take the model from the hub (`tuneline models ls` has the ids), or turn\n"
            "it into safetensors with Transformers 4 (5 has no converter any more: convert_llama_weights_to_hf.py)\n"
            "and write `base: NEW_FOLDER`"
        )
    return (
        problem + "use a revision that has *.safetensors; or download it yourself, and\n"
        "`tuneline models import FOLDER NEW_FOLDER` writes safetensors, reading only tensors from the pickle;\n"
        "then write `base: NEW_FOLDER`"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        BadRecipe: the file cannot be read, or it holds no JSON object.
    """
    value = user_files.read_json(path, BadRecipe)
    if not isinstance(value, dict):
        raise BadRecipe(f"{path}: not a JSON object")
    return value
