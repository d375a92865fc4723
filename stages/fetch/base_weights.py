"""Checks of a base's weight files, from their headers alone: is every weight there, once, in its shape?"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRecipe, StageFailed
from tuneline.core.user_files import read_json
from tuneline.stages.checkpoints.base_config import is_tied
from tuneline.stages.checkpoints.expected_weights import (
    NOT_LEARNED,
    VISION_PREFIXES,
    Shapes,
    expected_llama4_weights,
    expected_weights,
)
from tuneline.stages.checkpoints.safetensors_files import DTYPES, INDEX, SINGLE, StoredTensor, list_tensors

COMPARED_ROWS = 64
"""Rows of input and output embeddings that are compared where a config says that they are one matrix."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def check_weights(folder: Path, config: Mapping[str, Any]) -> int:
    """Return the number of rows of a base's embedding.

    Raises:
        BadRecipe: a weight is missing, unknown, of another shape or type; or files and index contradict each other.
    """
    tensors = _read_tensors(folder)
    _refuse_other_layouts(folder, tensors)
    prefix = "language_model." if any(name.startswith("language_model.") for name in tensors) else ""
    expected = _expected(folder, config, prefix)
    _refuse_missing(folder, config, tensors, expected)
    _refuse_unknown(folder, config, tensors, expected)
    for name, shape in expected.items():
        _check_tensor(tensors[name], shape)
    if is_tied(config) and HEAD in tensors:
        _refuse_two_embeddings(folder, tensors)
    return tensors[prefix + EMBEDDING].shape[0]


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a base's weights: the one file, or those that the index names.

    Raises:
        BadRecipe: there is none, there are two sets, a file is missing, or the index is damaged.
    """
    single, index = folder / SINGLE, folder / INDEX
    if not index.exists():
        if single.exists():
            return [single]
        others = sorted(file.name for file in folder.glob("*.safetensors"))
        raise BadRecipe(
            f"{folder}: neither {SINGLE} nor {INDEX}, but {', '.join(others[:3]) or 'no weights'}: name the one file "
            f"{SINGLE}, or copy the index of the shards too"
        )
    names = set(_read_index(index).values())
    if single.exists() and names != {SINGLE}:
        raise BadRecipe(
            f"{folder}: {SINGLE} and {INDEX}, which names other files: two models were saved in this folder; "
            "remove the files of one of them"
        )
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise BadRecipe(f"{index}: names {missing[0]} ({len(missing)} missing in all), which is not there; copy it too")
    return [folder / name for name in sorted(names)]


def _read_index(index: Path) -> dict[str, str]:
    """Return the file of each weight."""
    document = read_json(index, BadRecipe)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(_is_file_name(n) for n in weight_map.values()):
        raise BadRecipe(f"{index}: not an index of weights (weight_map: {{weight: file}}); fetch it again")
    return weight_map


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and "/" not in name and "\\" not in name


def _read_tensors(folder: Path) -> dict[str, StoredTensor]:
    files = weight_files(folder)
    try:
        tensors = {tensor.name: tensor for file in files for tensor in list_tensors(file)}
    except StageFailed as error:
        raise BadRecipe(str(error)) from None
    if (index := folder / INDEX).exists():
        weight_map = _read_index(index)
        stored = {name: tensor.file.name for name, tensor in tensors.items()}
        if differing := sorted(weight_map.items() ^ stored.items()):
            raise BadRecipe(
                f"{index}: {differing[0][0]} is in {stored.get(differing[0][0], 'none of the files')}, and the index "
                f"says {weight_map.get(differing[0][0], 'nothing of it')} ({len(differing)} such differences): the "
                "index is of another save; copy both again"
            )
    return tensors


def _refuse_other_layouts(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise BadRecipe for checkpoints that hold something else than a causal language model."""
    if "embed_tokens.weight" in tensors and EMBEDDING not in tensors:
        raise BadRecipe(
            f"{folder}: its weights have no `model.` before their names, as AutoModel saves them; save it from "
            "AutoModelForCausalLM: `tuneline models import FOLDER NEW_FOLDER` does, where the head is not missing"
        )
    if head := next((name for name in ("score.weight", "classifier.weight") if name in tensors), None):
        raise BadRecipe(f"{folder}: {head}: this is a classifier; use the language model it was made from")
    if lora := next((name for name in tensors if ".lora_" in name), None):
        raise BadRecipe(f"{folder}: {lora}: it contains an adapter's weights; merge the adapter into its base first")


def _expected(folder: Path, config: Mapping[str, Any], prefix: str) -> Shapes:
    try:
        if str(config.get("model_type")).startswith("llama4"):
            return expected_llama4_weights(config, prefix)
        return expected_weights(config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise BadRecipe(f"{folder / 'config.json'}: a size is missing or not a number: {error}") from None


def _refuse_missing(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], expected: Shapes
) -> None:
    missing = [name for name in expected if name not in tensors]
    if not missing:
        return
    if missing == [HEAD]:
        reason = f"config.json says tie_word_embeddings: {config.get('tie_word_embeddings', False)}; if the model's "
        remedy = "output embedding is its input embedding, write true there; else the head was not saved"
        raise BadRecipe(f"{folder}: {HEAD} is missing: {reason}{remedy}")
    unknown = list(_unknown(config, tensors, expected))
    renamed = f"; there is {unknown[0]} instead" if unknown else ""
    raise BadRecipe(
        f"{folder}: {missing[0]} is missing ({len(missing)} weights in all){renamed}: it would be trained from random "
        "numbers; copy or fetch the whole model again"
    )


def _refuse_unknown(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor], expected: Shapes
) -> None:
    if unknown := list(_unknown(config, tensors, expected)):
        raise BadRecipe(
            f"{folder}: {unknown[0]} ({len(unknown)} weights in all) is not part of a {config.get('model_type')} of "
            "this config.json: it would be ignored; is it the config of another model?"
        )


def _unknown(config: Mapping[str, Any], tensors: Iterable[str], expected: Shapes) -> Iterable[str]:
    is_llama4 = str(config.get("model_type")).startswith("llama4")
    for name in tensors:
        known = name in expected or name.endswith(NOT_LEARNED) or (name == HEAD and is_tied(config))
        if not known and not (is_llama4 and (".feed_forward." in name or name.startswith(VISION_PREFIXES))):
            yield name


def _check_tensor(tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    if tensor.dtype not in DTYPES:
        raise BadRecipe(
            f"{tensor.file}: {tensor.name}: {tensor.dtype}: supported dtypes are {', '.join(DTYPES)}; use the "
            "16-bit model it was made from"
        )
    if tensor.shape != shape:
        raise BadRecipe(
            f"{tensor.file}: {tensor.name}: {list(tensor.shape)}, and config.json says {list(shape)}; is it the config "
            "of another model?"
        )


def _refuse_two_embeddings(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise BadRecipe if a config says that both embeddings are one, and their rows differ."""
    embedding, head = tensors[EMBEDDING], tensors[HEAD]
    if (embedding.shape, embedding.dtype) == (head.shape, head.dtype):
        step = max(1, embedding.rows // COMPARED_ROWS)
        if all(_row(embedding, row) == _row(head, row) for row in range(0, embedding.rows, step)):
            return
    raise BadRecipe(
        f"{folder}: config.json says tie_word_embeddings: true, and {HEAD} is another matrix than {EMBEDDING}: write "
        "false there, or remove the matrix"
    )


def _row(tensor: StoredTensor, row: int) -> bytes:
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset + row * tensor.row_bytes)
        return file.read(tensor.row_bytes)
