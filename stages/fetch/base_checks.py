"""Checks of a base folder as a whole: config, tokenizer and weights, without torch and without reading a tensor.

What would fail hours later, or be trained from random numbers, is refused before anything is written.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRecipe
from tuneline.core.user_files import read_json
from tuneline.stages.fetch.base_weights import check_weights

GGUF_ROPES = ("default", "linear", "yarn", "llama3")
"""Kinds of rotary embedding that a GGUF file of a Llama can state, as llama.cpp's converter writes it."""
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


def check_base(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise BadRecipe unless config, tokenizer and weights in a folder are those of one language model."""
    _refuse_architecture(folder, config)
    _refuse_quantized(folder, config)
    _refuse_rope(folder, config)
    files = [folder / name for name in ("config.json", TOKENIZER, TOKENIZER_CONFIG)]
    state = tuple(
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for file in [*files, *sorted(folder.glob("*.safetensors*"))]
        if file.is_file()
    )
    _check_files(folder, state)


@lru_cache(maxsize=16)
def _check_files(folder: Path, state: tuple[Any, ...]) -> None:
    """Check the files of a folder; `state` tells whether it is still as it was."""
    config = read_json(folder / "config.json", BadRecipe)
    rows = check_weights(folder, config)
    tokens = count_tokens(folder)
    if tokens > rows:
        raise BadRecipe(
            f"{folder}: its tokenizer has {tokens:,} tokens, its embedding {rows:,} rows: tokens were added without "
            "model.resize_token_embeddings(len(tokenizer)); save both again after it"
        )


def _refuse_architecture(folder: Path, config: Mapping[str, Any]) -> None:
    names = config.get("architectures")
    for name in names if isinstance(names, list) else []:
        if isinstance(name, str) and not name.endswith(("ForCausalLM", "ForConditionalGeneration", "Model")):
            raise BadRecipe(
                f"{folder / 'config.json'}: architectures: {name}: Tuneline trains language models (…ForCausalLM); "
                "use the model it was made from"
            )


def _refuse_quantized(folder: Path, config: Mapping[str, Any]) -> None:
    quantization = config.get("quantization_config")
    if not quantization:
        return
    method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
    raise BadRecipe(
        f"{folder / 'config.json'}: quantization_config: its weights are quantized ({method}): train on the "
        f"16-bit model it was made from{_name_of_original(config)}; `method: qlora` loads that in 4 bit. Without it, "
        "`tuneline models import FOLDER NEW_FOLDER` writes a bitsandbytes model in 16 bit"
    )


def _name_of_original(config: Mapping[str, Any]) -> str:
    name = config.get("_name_or_path")
    if not isinstance(name, str) or not name:
        return ""
    original = name
    for suffix in ("-unsloth-bnb-4bit", "-bnb-4bit", "-bnb-8bit", "-AWQ", "-GPTQ", "-FP8"):
        original = original.removesuffix(suffix)
    return f" ({original})"


def _refuse_rope(folder: Path, config: Mapping[str, Any]) -> None:
    text = config.get("text_config", config)
    for key in ("rope_parameters", "rope_scaling"):
        rope = text.get(key) if isinstance(text, dict) else None
        kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else "default"
        if kind not in GGUF_ROPES:
            raise BadRecipe(
                f"{folder / 'config.json'}: {key}: {kind!r} cannot be expressed in a GGUF file, which would "
                f"compute something else beyond the trained context; supported: {', '.join(GGUF_ROPES)}"
            )


def count_tokens(folder: Path) -> int:
    """Return how many rows of the embedding a base's tokenizer can ask for.

    Raises:
        BadRecipe: tokenizer.json or tokenizer_config.json is damaged.
    """
    from tokenizers import Tokenizer

    file = folder / TOKENIZER
    read_json(file, BadRecipe)  # names the place, where the library says no more than that it failed
    try:
        vocabulary: dict[str, int] = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
    except BaseException as error:  # the library's own, or a panic in it
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise BadRecipe(f"{file}: not a tokenizer: {str(error)[:200]}; fetch or save it again") from None
    settings = read_json(folder / TOKENIZER_CONFIG, BadRecipe) if (folder / TOKENIZER_CONFIG).exists() else {}
    if not isinstance(settings, dict):
        raise BadRecipe(f"{folder / TOKENIZER_CONFIG}: not an object; fetch or save it again")
    decoder = settings.get("added_tokens_decoder")
    numbered = {
        number: text
        for number, entry in (decoder.items() if isinstance(decoder, dict) else ())
        if (text := _text(entry)) and text not in vocabulary and len(number) < 10 and number.isascii()
    }
    highest = max([*vocabulary.values(), *(int(number) for number in numbered if number.isdigit()), -1])
    return highest + 1 + len(set(_named_tokens(settings)) - vocabulary.keys() - set(numbered.values()))


def _named_tokens(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the special tokens of tokenizer_config.json; transformers adds those that the vocabulary lacks."""
    names = [value for key, value in settings.items() if key.endswith("_token")]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(key)
        names += more if isinstance(more, list) else list(more.values()) if isinstance(more, dict) else []
    yield from filter(None, map(_text, names))


def _text(token: Any) -> str:
    """Return the text of a token as a config has it, as text or as an object; "" if it has none."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""
