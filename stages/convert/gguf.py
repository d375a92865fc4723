"""A model folder as a 16-bit GGUF, by llama.cpp's own `conversion` package, and the tensor types of a GGUF.

Runs in a process of its own: the vendored gguf-py must come before any other `gguf`.
"""

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

TEMPLATE = "chat_template.jinja"
LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {LLAMA_3_SPLIT: "llama-bpe"}
"""llama.cpp's name for a split rule. It knows models by a hash of their tokens, which a vocabulary of one's own never
matches; the rule is what counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("llama_cpp", type=Path)
    verbs = parser.add_subparsers(dest="verb", required=True)
    converting = verbs.add_parser("convert")
    converting.add_argument("scratch", type=Path, help="where a file is written before it is moved to its place")
    converting.add_argument("jobs", nargs="+", metavar="MODEL OUT NAME")
    verbs.add_parser("types").add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    sys.path[:0] = [str(options.llama_cpp / "gguf-py"), str(options.llama_cpp)]
    if options.verb == "convert":
        for model, out, name in zip(*[iter(options.jobs)] * 3, strict=True):
            whole = options.scratch / Path(out).name
            convert(Path(model), whole, name)
            put(whole, Path(out))
    else:
        print(json.dumps([types(file) for file in options.files]))


def convert(model: Path, out: Path, name: str) -> None:
    """Write `model`, a folder transformers can load, to `out` in F16."""
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hyperparameters = ModelBase.load_hparams(model, False)
    known: Any = get_model_class(get_model_architecture(hyperparameters, ModelType.TEXT))

    class Converter(known):
        model_arch = known.model_arch

        def get_vocab_base_pre(self, tokenizer: Any) -> str:
            try:
                return str(super().get_vocab_base_pre(tokenizer))
            except NotImplementedError:
                return pre_tokenizer_of(model / "tokenizer.json")

    with torch.inference_mode():
        converter = Converter(model, gguf.LlamaFileType.MOSTLY_F16, out, model_name=name)
        if (model / TEMPLATE).exists():
            _use_template(converter.gguf_writer, (model / TEMPLATE).read_text(encoding="utf-8"))
        converter.write()


def _use_template(writer: Any, template: str) -> None:
    """Make `writer` take this one: by itself it prefers tokenizer_config.json's, unlike transformers."""
    add = writer.add_chat_template
    writer.add_chat_template = lambda _: add(template)


def put(whole: Path, place: Path) -> None:
    """Move a finished file to its place; its content reaches the disk before its name does."""
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    whole.replace(place)


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
