"""A model folder as a 16-bit GGUF, by llama.cpp's own `conversion` package, and the tensor types of a GGUF.

Runs in a process of its own: the vendored gguf-py must come before any other `gguf`.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

PRE_TOKENIZERS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
}
"""llama.cpp's name for a split rule. It knows models by a hash of their tokens, which a vocabulary of one's own never
matches; the rule is what counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("llama_cpp", type=Path)
    verbs = parser.add_subparsers(dest="verb", required=True)
    converting = verbs.add_parser("convert")
    converting.add_argument("model", type=Path)
    converting.add_argument("out", type=Path)
    converting.add_argument("name")
    verbs.add_parser("types").add_argument("file", type=Path)
    options = parser.parse_args()
    sys.path[:0] = [str(options.llama_cpp / "gguf-py"), str(options.llama_cpp)]
    if options.verb == "convert":
        convert(options.model, options.out, options.name)
    else:
        print(json.dumps(types(options.file)))


def convert(model: Path, out: Path, name: str) -> None:
    """Write `model`, a folder transformers can load, to `out` in F16."""
    import conversion.base
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    by_hash = conversion.base.TextModel.get_vocab_base_pre

    def pre_tokenizer(self: Any, tokenizer: Any) -> str:
        try:
            return str(by_hash(self, tokenizer))
        except NotImplementedError:
            return pre_tokenizer_of(model / "tokenizer.json")

    conversion.base.TextModel.get_vocab_base_pre = pre_tokenizer
    with torch.inference_mode():
        hyperparameters = ModelBase.load_hparams(model, False)
        cls = get_model_class(get_model_architecture(hyperparameters, ModelType.TEXT))
        cls(model, gguf.LlamaFileType.MOSTLY_F16, out, model_name=name).write()


def types(file: Path) -> dict[str, int]:
    """Parameters by tensor type."""
    import gguf

    counted: Counter[str] = Counter()
    for tensor in gguf.GGUFReader(file).tensors:
        counted[tensor.tensor_type.name] += int(tensor.n_elements)
    return counted


def pre_tokenizer_of(tokenizer: Path) -> str:
    """llama.cpp's name for the split rule of a `tokenizer.json`.

    Raises:
        SystemExit: it is none that is known here.
    """
    rule = json.loads(tokenizer.read_text())["pre_tokenizer"]
    for step in rule.get("pretokenizers", [rule]):
        found = PRE_TOKENIZERS.get(step.get("pattern", {}).get("Regex", ""))
        if step["type"] == "Split" and found:
            return found
    raise SystemExit(f"{tokenizer}: llama.cpp has no name for its split rule: {json.dumps(rule)}")


if __name__ == "__main__":
    main()
