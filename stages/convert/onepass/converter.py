"""llama.cpp's own converter of a model, with an adapter merged into its weights and our knowledge of its tokenizer.

Needs the vendored gguf-py (`use_vendored_gguf`).
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.engines.llama_cpp.build import LlamaCpp
from tuneline.stages.checkpoints.base_config import CHAT_TEMPLATE
from tuneline.stages.checkpoints.buffers import BufferPool
from tuneline.stages.checkpoints.lora_adapter import Adapter
from tuneline.stages.checkpoints.safetensors_files import StoredTensor, list_model_tensors
from tuneline.stages.prepare.rendering.word_cache import LLAMA_3_SPLIT

PRE_TOKENIZERS = {LLAMA_3_SPLIT: "llama-bpe"}
"""llama.cpp's name of a split rule. It identifies models by a hash of their tokens, which a custom vocabulary never
matches; only the rule matters."""


@dataclass(frozen=True)
class TunedModel:
    """What turns the base into the tuned model."""

    adapter: Adapter
    template: str | None
    """Its chat template; None if it has the base's."""


def use_vendored_gguf(llama: LlamaCpp) -> None:
    """Let `import gguf` and `import conversion` find those of llama.cpp's source."""
    sys.path[:0] = [str(llama.source / "gguf-py"), str(llama.source)]


def make_converter(model: Path, file_type: Any, out: Path, name: str, tuned: TunedModel | None = None) -> Any:
    """Return llama.cpp's converter of the folder `model`, with the adapter of `tuned` merged into its weights.

    It is lazy: no weight is read before its `write()`. Its attribute `sources` has the stored tensor of each of its
    tensors.
    """
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hyperparameters = ModelBase.load_hparams(model, False)
    base_class: Any = get_model_class(get_model_architecture(hyperparameters, ModelType.TEXT))
    stored_tensors = {(tensor.file, tensor.offset): tensor for tensor in list_model_tensors(model)}

    class Converter(base_class):
        model_arch = base_class.model_arch

        def get_vocab_base_pre(self, tokenizer: Any) -> str:
            try:
                return str(super().get_vocab_base_pre(tokenizer))
            except NotImplementedError:
                return find_pre_tokenizer(model / "tokenizer.json")

        def set_vocab(self) -> None:
            super().set_vocab()
            metadata = {key: entry.value for entries in self.gguf_writer.kv_data for key, entry in entries.items()}
            if metadata["tokenizer.ggml.model"] == "llama":
                self.gguf_writer.add_add_space_prefix(adds_space_after_control_token(model / "tokenizer.json"))

        def index_tensors(self, *args: Any, **kwargs: Any) -> dict[str, Callable[[], Any]]:
            readers: dict[str, Callable[[], Any]] = super().index_tensors(*args, **kwargs)
            ranges = {key: read()._args[0].data_range for key, read in readers.items()}
            self.sources = {key: stored_tensors[(at.filename, at.offset)] for key, at in ranges.items()}
            return {key: _read_merged(tuned, self.sources[key], read) for key, read in readers.items()}

    converter = Converter(model, file_type, out, model_name=name)
    template = _choose_template(model, tuned)
    if template is not None:
        _set_template(converter.gguf_writer, template)
    return converter


def _choose_template(model: Path, tuned: TunedModel | None) -> str | None:
    """Return the chat template of the tuned model, or else that of the base's template file if it has one."""
    if tuned and tuned.template:
        return tuned.template
    file = model / CHAT_TEMPLATE
    return file.read_text("utf-8") if file.exists() else None


def _read_merged(tuned: TunedModel | None, source: StoredTensor, read: Callable[[], Any]) -> Callable[[], Any]:
    """Return `read`, with the adapter merged into what it returns if the adapter changes this tensor."""
    from conversion.base import LazyTorchTensor

    if tuned is None or source.name not in tuned.adapter.weight_names:
        return read
    adapter = tuned.adapter

    def merge(weight: Any) -> Any:
        matrix = weight.reshape(source.rows, source.columns)
        return adapter.merge_rows(source.name, matrix, 0, source.rows, BufferPool()).reshape(weight.shape)

    lazy: Any = read()
    return lambda: LazyTorchTensor(meta=lazy._meta, args=(lazy,), func=merge)


def _set_template(writer: Any, template: str) -> None:
    """Make `writer` use this template: by itself it prefers tokenizer_config.json's, unlike transformers."""
    add = writer.add_chat_template
    writer.add_chat_template = lambda _: add(template)


def find_pre_tokenizer(tokenizer: Path) -> str:
    """Return llama.cpp's name of the split rule in a `tokenizer.json`.

    Raises:
        SystemExit: the rule is not in PRE_TOKENIZERS.
    """
    rule = json.loads(tokenizer.read_text())["pre_tokenizer"]
    for step in rule.get("pretokenizers", [rule]):
        name = PRE_TOKENIZERS.get(step.get("pattern", {}).get("Regex", ""))
        if step["type"] == "Split" and name:
            return name
    raise SystemExit(f"{tokenizer}: llama.cpp has no name for its split rule: {json.dumps(rule)}")


def adds_space_after_control_token(tokenizer: Path) -> bool:
    """Return whether a sentencepiece-like `tokenizer.json` puts a space before text that follows a control token.

    Llama 2's does, Mistral's from 0.3 on does not, whatever `add_prefix_space` says. llama.cpp has one switch for this
    and for the beginning of a text, where prompts have a control token anyway.
    """
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer))
    first = next(token.content for _, token in sorted(loaded.get_added_tokens_decoder().items()) if token.special)
    return bool(loaded.encode(f"{first}a", add_special_tokens=False).tokens[1].startswith("\u2581"))
