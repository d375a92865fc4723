"""The files a base consists of: which are fetched, which must be present, and which are refused."""

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tuneline.configs.models import FAMILIES
from tuneline.core.errors import BadRecipe

FETCHED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
NOT_FETCHED = ("*/*", "consolidated*", "manifest.json", "draft.json")
"""Subfolders (other formats of the same weights), Meta's own layout, and names that an artifact uses itself."""
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
    """Raise BadRecipe unless `folder` holds a complete Llama: config.json, tokenizer.json and every shard."""
    refuse_incomplete(str(folder), [f.name for f in folder.iterdir()])
    config = folder / "config.json"
    refuse_family(f"{config}: model_type:", read_json(config).get("model_type"))
    index = folder / "model.safetensors.index.json"
    shards = set(read_json(index).get("weight_map", {}).values()) if index.exists() else set()
    if missing := sorted(shard for shard in shards if not (folder / shard).exists()):
        raise BadRecipe(f"{index}: names {missing[0]} ({len(missing)} missing in all), which is not there; copy it too")


def refuse_incomplete(where: str, names: list[str]) -> None:
    """Raise BadRecipe unless `names` include a config, a tokenizer and weights in safetensors."""
    has_safetensors = any(fnmatch(name, "*.safetensors") for name in names)
    if not has_safetensors and (meta_weights := [name for name in names if fnmatch(name, META_WEIGHTS)]):
        raise BadRecipe(pickle_remedy(where, meta_weights[0]))
    for required in ("config.json", "tokenizer.json"):
        if required not in names:
            raise BadRecipe(
                f"base: {where}: no {required}; a base is a Hugging Face model folder with a fast tokenizer"
            )
    if has_safetensors:
        return
    if pickles := [name for name in names if matches(name, PICKLES)]:
        raise BadRecipe(pickle_remedy(where, pickles[0]))
    raise BadRecipe(f"base: {where}: no weights (*.safetensors)")


def refuse_family(where: str, family: Any) -> None:
    """Raise BadRecipe unless `family` (a `model_type`) is one that Tuneline trains."""
    if family not in FAMILIES:
        raise BadRecipe(f"{where} {family!r}: Tuneline trains Llamas only ({', '.join(FAMILIES)})")


def pickle_remedy(where: str, pickle: str) -> str:
    """Return the error message for weights that exist only as a pickle, with the way to safetensors."""
    problem = f"base: {where}: weights are only there as a pickle ({pickle}), which can run any code when loaded;\n"
    if fnmatch(pickle, "*.pth"):
        return problem + (
            "a .pth is Meta's own format: take the model from the hub (`tuneline models ls` has the ids), or turn\n"
            "it into safetensors with Transformers 4 (5 has no converter any more: convert_llama_weights_to_hf.py)\n"
            "and write `base: NEW_FOLDER`"
        )
    return (
        problem + "use a revision that has *.safetensors (https://huggingface.co/spaces/safetensors/convert makes one)"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        BadRecipe: the file cannot be read, or it holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadRecipe(f"{path}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise BadRecipe(f"{path}: not a JSON object")
    return value
