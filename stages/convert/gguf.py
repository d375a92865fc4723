"""GGUF files as llama.cpp's own `conversion` package lays them out, planned without touching a weight.

The package's model class says everything (names, metadata, tokenizer, which rows go where); here its tensors stay lazy.
Where rows go is found by passing row numbers instead of weights through it. Runs in a process of its own: the vendored
gguf-py must come before any other `gguf`.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.convert.adapter import Adapter
from stages.convert.ggml import Ggml, Laid, file_bytes
from stages.convert.llama_cpp import LlamaCpp
from stages.convert.shards import Stored, whole
from stages.convert.stream import Place, Target

TEMPLATE = "chat_template.jinja"
LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {LLAMA_3_SPLIT: "llama-bpe"}
"""llama.cpp's name for a split rule. It knows models by a hash of their tokens, which a vocabulary of one's own never
matches; the rule is what counts."""
FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
_PRIME = (1 << 31) - 1


@dataclass(frozen=True)
class Tuned:
    """What makes the tuned model of the base: without it, the base itself."""

    adapter: Adapter
    template: str | None
    """Its chat template, where it is not the base's."""


@dataclass(frozen=True)
class Wanted:
    """One GGUF to make."""

    path: Path
    kind: str
    name: str
    """Inside the file."""
    tuned: Tuned | None


@dataclass
class Plan:
    """What a stream writes."""

    targets: list[Target] = field(default_factory=list)
    places: dict[str, list[Place]] = field(default_factory=dict)


def use_vendored(llama: LlamaCpp) -> None:
    """Make `gguf` and `conversion` those of the pinned source."""
    sys.path[:0] = [str(llama.source / "gguf-py"), str(llama.source)]


def plan(
    model: Path,
    wanted: Sequence[Wanted],
    base: Sequence[Stored],
    ggml: Ggml,
    scratch: Path,
    importance: "Importance | None" = None,
) -> Plan:
    """How to write `wanted` from the base in folder `model`; `scratch` holds headers meanwhile.

    `importance` goes into the types that profit from it.
    """
    made, traces = Plan(), _traces(model, base)
    variants = {id(one.tuned): one.tuned for one in wanted}
    for tuned in variants.values():
        same = [one for one in wanted if one.tuned is tuned]
        first = _Converted(model, same[0].name, tuned)
        for one in same:
            _add(made, one, first, base, traces, ggml, scratch, importance)
    return made


@dataclass(frozen=True)
class Importance:
    """An importance matrix: its file, and for each tensor one row of weights a matrix, fp32."""

    file: Path
    weights: Mapping[str, Any]
    tokens: int

    PROFIT = ("Q4_0", "Q4_K_M", "Q5_K_M")
    """File types with few bits a weight; above that it changes nothing one can measure."""

    @property
    def metadata(self) -> dict[str, str | int]:
        """As llama-quantize notes it."""
        return {
            "quantize.imatrix.file": self.file.name,
            "quantize.imatrix.dataset": "train.jsonl",
            "quantize.imatrix.entries_count": len(self.weights),
        }


class _Converted:
    """One model as the converter sees it: metadata once, tensors for any 16-bit type."""

    def __init__(self, model: Path, name: str, tuned: Tuned | None) -> None:
        self.model, self.name, self.tuned = model, name, tuned
        self._metadata: dict[str, Any] | None = None

    def header(self, kind: str | None, path: Path) -> dict[str, Any]:
        """Write the header of a file in `kind` (None: as close to the stored type as GGUF gets) to `path`.

        Returns its tensors, lazy, by name.
        """
        import gguf

        file_type = gguf.LlamaFileType["GUESSED" if kind is None else f"MOSTLY_{kind}"]
        converter = converter_for(self.model, file_type, path, self.name, self.tuned)
        converter.prepare_tensors()
        writer = converter.gguf_writer
        if self._metadata is None:
            converter.prepare_metadata(vocab_only=False)
            self._metadata = dict(writer.kv_data[0])
        writer.kv_data = [dict(self._metadata)]
        writer.add_file_type(converter.ftype)
        writer.write_header_to_file(path=path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for file in writer.fout:
            writer.write_padding(file, file.tell())
        writer.close()
        return dict(writer.tensors[0])


def converter_for(model: Path, file_type: Any, out: Path, name: str, tuned: Tuned | None = None) -> Any:
    """llama.cpp's converter of this model, all lazy: nothing is read before its `write()`.

    Merged weights too are lazy; `tuned` without an adapter's change is the base.
    """
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
    from conversion.base import LazyTorchTensor

    hyperparameters = ModelBase.load_hparams(model, False)
    known: Any = get_model_class(get_model_architecture(hyperparameters, ModelType.TEXT))

    class Converter(known):
        model_arch = known.model_arch

        def get_vocab_base_pre(self, tokenizer: Any) -> str:
            try:
                return str(super().get_vocab_base_pre(tokenizer))
            except NotImplementedError:
                return pre_tokenizer_of(model / "tokenizer.json")

        def index_tensors(self, *words: Any, **more: Any) -> dict[str, Callable[[], Any]]:
            found: dict[str, Callable[[], Any]] = super().index_tensors(*words, **more)
            if tuned:
                changed = {key: _lazily_merged(tuned.adapter, read) for key, read in found.items()}
                found = {key: changed[key] or read for key, read in found.items()}
            return found

    def _lazily_merged(adapter: Adapter, read: Callable[[], Any]) -> Callable[[], Any] | None:
        lazy = read()
        source = _stored(lazy)
        if source is None or source[1] not in adapter.names:
            return None

        def merged(weight: Any) -> Any:
            flat = weight.reshape(-1, weight.shape[-1])
            return adapter.merged(source[1], flat, 0, len(flat)).reshape(weight.shape)

        return lambda: LazyTorchTensor(meta=lazy._meta, args=(lazy,), func=merged)

    names = _names(model)

    def _stored(lazy: Any) -> tuple[Any, str] | None:
        local = lazy._args[0].data_range
        return local, names[(str(local.filename), local.offset)]

    converter = Converter(model, file_type, out, model_name=name)
    template = tuned.template if tuned and tuned.template else _own_template(model)
    if template is not None:
        _use_template(converter.gguf_writer, template)
    return converter


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


def types(file: Path) -> dict[str, int]:
    """Parameters by tensor type."""
    import gguf

    counted: Counter[str] = Counter()
    for tensor in gguf.GGUFReader(file).tensors:
        counted[tensor.tensor_type.name] += int(tensor.n_elements)
    return counted
