"""llama.cpp's own converter of a model, with an adapter merged into its weights and our knowledge of its tokenizer.

Needs the vendored gguf-py (`use_vendored_gguf`).
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRecipe
from tuneline.engines.llama_cpp.build import LlamaCpp
from tuneline.stages.checkpoints.base_config import CHAT_TEMPLATE
from tuneline.stages.checkpoints.buffers import BufferPool
from tuneline.stages.checkpoints.lora_adapter import Adapter
from tuneline.stages.checkpoints.safetensors_files import StoredTensor, list_model_tensors
from tuneline.stages.prepare.rendering.word_cache import LLAMA_3_SPLIT

CHAT_TEMPLATE_KEY = "tokenizer.chat_template"
PRE_TOKENIZERS = {LLAMA_3_SPLIT: "llama-bpe"}
"""llama.cpp's name of a split rule. It identifies models by a hash of their tokens, which a custom vocabulary never
matches; only the rule matters."""


KNOWN_ENDS = ("<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|im_end|>", "</s>", "<|end|>")
"""Tokens of our bases that llama.cpp knows by their names (src/llama-vocab.cpp). Llama 4's `<|eom|>` is not one."""


@dataclass(frozen=True)
class TunedModel:
    """What turns the base into the tuned model."""

    adapter: Adapter
    template: str | None
    """Its chat template; None if it has the base's."""
    turn_end: int | None = None
    """The id that ends its turns, where its base does not stop at it."""


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
            if template is not None and CHAT_TEMPLATE_KEY not in metadata:  # the base has none
                self.gguf_writer.add_chat_template(template)
            turn_end = tuned.turn_end if tuned else None
            tokens, eos = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.eos_token_id")
            ends = [end for end in list_unnamed_ends(model, tokens, eos) if end != turn_end]
            if ends:
                self.gguf_writer.add_eom_token_id(ends[0])
            if turn_end is not None or ends[1:]:
                self.gguf_writer.add_eot_token_id(ends[1] if turn_end is None else turn_end)

        def index_tensors(self, *args: Any, **kwargs: Any) -> dict[str, Callable[[], Any]]:
            readers: dict[str, Callable[[], Any]] = super().index_tensors(*args, **kwargs)
            ranges = {key: read()._args[0].data_range for key, read in readers.items()}
            self.sources = {key: stored_tensors[(at.filename, at.offset)] for key, at in ranges.items()}
            return {key: _read_merged(tuned, self.sources[key], read) for key, read in readers.items()}

    template = _choose_template(model, tuned)
    converter = Converter(model, file_type, out, model_name=name)
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
        import torch

        matrix = weight.reshape(source.rows, source.columns)
        merged = adapter.merge_rows(source.name, matrix, 0, source.rows, BufferPool(), torch.float32)
        return merged.reshape(weight.shape)

    lazy: Any = read()
    return lambda: LazyTorchTensor(meta=lazy._meta.float(), args=(lazy,), func=merge)


def _set_template(writer: Any, template: str) -> None:
    """Make `writer` use this template: by itself it prefers tokenizer_config.json's, unlike transformers."""
    add = writer.add_chat_template
    writer.add_chat_template = lambda _: add(template)


def find_pre_tokenizer(tokenizer: Path) -> str:
    """Return llama.cpp's name of the split rule in a `tokenizer.json`.

    Raises:
        BadRecipe: the rule is not in PRE_TOKENIZERS.
    """
    rule = json.loads(tokenizer.read_text(encoding="utf-8"))["pre_tokenizer"]
    for step in rule.get("pretokenizers", [rule]):
        name = PRE_TOKENIZERS.get(step.get("pattern", {}).get("Regex", ""))
        if step["type"] == "Split" and name:
            return name
    raise BadRecipe(
        f"base: {tokenizer}: llama.cpp does not know its pre-tokenizer, so no GGUF can be made: {json.dumps(rule)}"
    )


def list_unnamed_ends(model: Path, tokens: list[str], eos: int | None) -> list[int]:
    """Return the ids that end an answer and that llama.cpp would not know to: neither `eos`, nor of a name it knows.

    A GGUF has room for two of them: where a message ends, and a turn. Verification finds what is missing.
    """
    file = model / "generation_config.json"
    configured = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.exists() else None
    ids = configured if isinstance(configured, list) else []
    return [end for end in ids if end != eos and tokens[end] not in KNOWN_ENDS]


def adds_space_after_control_token(tokenizer: Path) -> bool:
    """Return whether a sentencepiece-like `tokenizer.json` puts a space before text that follows a control token.

    Llama 2's does, Mistral's from 0.3 on does not, whatever `add_prefix_space` says. llama.cpp has one switch for this
    and for the beginning of a text, where prompts have a control token anyway.
    """
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer))
    first = next(token.content for _, token in sorted(loaded.get_added_tokens_decoder().items()) if token.special)
    return bool(loaded.encode(f"{first}a", add_special_tokens=False).tokens[1].startswith("\u2581"))
