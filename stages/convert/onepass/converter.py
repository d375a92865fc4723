"""llama.cpp's own converter of a model, an adapter merged into its weights, and what it is told of the tokenizer.

Needs the vendored gguf-py (`gguf.use_vendored`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.stages.checkpoints.buffers import Room
from tuneline.stages.checkpoints.lora_adapter import Adapter
from tuneline.stages.checkpoints.safetensors_files import Stored, shards, stored
from tuneline.stages.prepare.rendering.word_cache import LLAMA_3_SPLIT

TEMPLATE = "chat_template.jinja"
PRE_TOKENIZERS = {LLAMA_3_SPLIT: "llama-bpe"}
"""llama.cpp's name for a split rule. It knows models by a hash of their tokens, which a vocabulary of one's own never
matches; the rule is what counts."""


@dataclass(frozen=True)
class Tuned:
    """What makes the tuned model of the base: without it, the base itself."""

    adapter: Adapter
    template: str | None
    """Its chat template, where it is not the base's."""


def converter_for(model: Path, file_type: Any, out: Path, name: str, tuned: Tuned | None = None) -> Any:
    """llama.cpp's converter of this model, with the adapter merged into its weights if there is one.

    All of it is lazy: no weight is read before its `write()`. `sources` says where each tensor is stored.
    """
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hyperparameters = ModelBase.load_hparams(model, False)
    known: Any = get_model_class(get_model_architecture(hyperparameters, ModelType.TEXT))
    places = {(tensor.file, tensor.offset): tensor for shard in shards(model) for tensor in stored(shard)}

    class Converter(known):
        model_arch = known.model_arch

        def get_vocab_base_pre(self, tokenizer: Any) -> str:
            try:
                return str(super().get_vocab_base_pre(tokenizer))
            except NotImplementedError:
                return pre_tokenizer_of(model / "tokenizer.json")

        def set_vocab(self) -> None:
            super().set_vocab()
            written = {key: value.value for one in self.gguf_writer.kv_data for key, value in one.items()}
            if written["tokenizer.ggml.model"] == "llama":
                self.gguf_writer.add_add_space_prefix(puts_a_space(model / "tokenizer.json"))

        def index_tensors(self, *words: Any, **more: Any) -> dict[str, Callable[[], Any]]:
            found: dict[str, Callable[[], Any]] = super().index_tensors(*words, **more)
            ranges = {key: read()._args[0].data_range for key, read in found.items()}
            self.sources = {key: places[(at.filename, at.offset)] for key, at in ranges.items()}
            return {key: _merged(tuned, self.sources[key], read) for key, read in found.items()}

    converter = Converter(model, file_type, out, model_name=name)
    own = model / TEMPLATE
    template = tuned.template if tuned and tuned.template else own.read_text("utf-8") if own.exists() else None
    if template is not None:
        _use_template(converter.gguf_writer, template)
    return converter


def _merged(tuned: Tuned | None, source: Stored, read: Callable[[], Any]) -> Callable[[], Any]:
    from conversion.base import LazyTorchTensor

    if tuned is None or source.name not in tuned.adapter.names:
        return read
    adapter = tuned.adapter

    def merged(weight: Any) -> Any:
        flat = weight.reshape(source.rows, source.columns)
        return adapter.merged(source.name, flat, 0, source.rows, Room()).reshape(weight.shape)

    lazy: Any = read()
    return lambda: LazyTorchTensor(meta=lazy._meta, args=(lazy,), func=merged)


def _use_template(writer: Any, template: str) -> None:
    """Make `writer` take this one: by itself it prefers tokenizer_config.json's, unlike transformers."""
    add = writer.add_chat_template
    writer.add_chat_template = lambda _: add(template)


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


def puts_a_space(tokenizer: Path) -> bool:
    """Whether a `tokenizer.json` with sentencepiece's pieces puts a space before the text behind a control token.

    Llama 2's does, Mistral's from 0.3 on does not, whatever `add_prefix_space` says; llama.cpp has one switch for that
    and for the beginning of a text, where prompts have a control token anyway.
    """
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(tokenizer))
    first = next(token.content for _, token in sorted(own.get_added_tokens_decoder().items()) if token.special)
    return bool(own.encode(f"{first}a", add_special_tokens=False).tokens[1].startswith("\u2581"))
