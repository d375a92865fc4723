"""The process that writes a base of an older kind anew, started by `child_processes.child_process`.

Its request is the JSON of source, target and name. Pickles are read with `weights_only`: tensors and nothing else.
It is a process, so that whatever is in the files can neither take this one's memory for good nor end it.
"""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

from tuneline.core.child_processes import report_outcome
from tuneline.core.errors import BadRecipe

LIBRARY_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, AttributeError)
"""What transformers, torch and tokenizers raise of files that they cannot read."""

COMPARED_TEXTS = ("Hello, world", "two  spaces", "a\nb\tc", "è 日本 🎉", "x = 10**9")
"""None begins with a space, which transformers takes for the one that sentencepiece puts before a text."""


def main() -> int:
    request = json.loads(sys.stdin.read())
    return report_outcome(lambda: _import(Path(request["source"]), Path(request["target"]), request["name"]))


def _import(source: Path, target: Path, name: str) -> None:
    """Write the model in `source` to `target`; messages call it `name`."""
    try:
        model, tokenizer = _load(source, name)
        if not (source / "tokenizer.json").exists():
            _compare_with_sentencepiece(source / "tokenizer.model", tokenizer, name)
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    except pickle.UnpicklingError:
        raise BadRecipe(f"{name}: its pickle cannot be read: it is damaged, or contains more than tensors") from None
    except BadRecipe:  # is a ValueError too
        raise
    except LIBRARY_ERRORS as error:
        raise BadRecipe(f"{name}: cannot be read: {type(error).__name__}: {str(error)[:500]}") from None
    if not (target / "tokenizer.json").exists():
        raise BadRecipe(f"{name}: its tokenizer has no fast form (tokenizer.json)")


def _load(source: Path, name: str) -> tuple[Any, Any]:
    """Return model and tokenizer, the model in the type that it was saved in, or in 16 bit if it was quantized.

    Raises:
        BadRecipe: weights are missing, and would be made up.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source, dtype="auto", local_files_only=True, weights_only=True, output_loading_info=True
    )
    model, report = loaded
    if missing := sorted(map(str, report["missing_keys"])):
        raise BadRecipe(f"{name}: {missing[0]} is missing ({len(missing)} weights in all)")
    if getattr(model.config, "quantization_config", None):
        model = _rebuild_in_16_bit(model.dequantize())
    return model, AutoTokenizer.from_pretrained(source, local_files_only=True)


def _compare_with_sentencepiece(file: Path, tokenizer: Any, name: str) -> None:
    """Raise BadRecipe if the tokenizer that was made of a tokenizer.model gives other ids than it does."""
    from sentencepiece import SentencePieceProcessor

    if not file.exists():
        return
    original: Any = SentencePieceProcessor(model_file=str(file))
    for text in COMPARED_TEXTS:
        if original.encode(text) != tokenizer(text, add_special_tokens=False).input_ids:
            raise BadRecipe(
                f"{name}: the tokenizer.json that is made of tokenizer.model gives other ids for {text!r}: write "
                '"tokenizer_class": "LlamaTokenizer" in tokenizer_config.json, or take a folder with a tokenizer.json'
            )


def _rebuild_in_16_bit(dequantized: Any) -> Any:
    """Return a model of the same weights that was never quantized: transformers cannot save one that was."""
    import torch
    from transformers import AutoModelForCausalLM

    weights = {name: tensor.to(torch.bfloat16) for name, tensor in dequantized.state_dict().items()}
    config = dequantized.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model


if __name__ == "__main__":
    sys.exit(main())
