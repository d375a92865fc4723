"""GGUF files as llama.cpp's own `conversion` package lays them out, planned without touching a weight.

The package's model class says everything (names, metadata, tokenizer, which rows go where); here its tensors stay lazy.
Where rows go is found by passing row numbers instead of weights through it. Runs in a process of its own: the vendored
gguf-py must come before any other `gguf`.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from tuneline.engines.llama_cpp.build import LlamaCpp
from tuneline.stages.checkpoints.safetensors_files import Stored, shards, stored
from tuneline.stages.convert.onepass.converter import Tuned, converter_for
from tuneline.stages.convert.onepass.ggml import Ggml, Laid, file_bytes
from tuneline.stages.convert.onepass.stream import Place, Target

FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
_PRIME = (1 << 31) - 1


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
    model: Path, wanted: Sequence[Wanted], ggml: Ggml, scratch: Path, importance: "Importance | None" = None
) -> Plan:
    """How to write `wanted` from the base in folder `model`; `scratch` holds headers meanwhile.

    `importance` goes into the types of the tuned model that profit from it.
    """
    made, traces = Plan(), _traces(model)
    base = [tensor for shard in shards(model) for tensor in stored(shard)]
    for tuned in {id(one.tuned): one.tuned for one in wanted}.values():
        same = [one for one in wanted if one.tuned is tuned]
        converted = _Converted(model, same[0].name, tuned, ggml, scratch, importance)
        for one in same:
            _add(made, one, converted, base, traces, ggml)
        converted.close()
    return made


@dataclass(frozen=True)
class Importance:
    """An importance matrix: its file, and for each tensor one row of weights a matrix, fp32."""

    file: Path
    weights: Mapping[str, Any]
    dataset: str
    chunks: int

    PROFIT = ("Q4_0", "Q4_K_M", "Q5_K_M")
    """File types with few bits a weight; above that it changes nothing one can measure."""

    @property
    def metadata(self) -> dict[str, str | int]:
        """As llama-quantize notes it."""
        return {
            "quantize.imatrix.file": self.file.name,
            "quantize.imatrix.dataset": self.dataset,
            "quantize.imatrix.entries_count": len(self.weights),
            "quantize.imatrix.chunks_count": self.chunks,
        }


class _Converted:
    """One model as the converter sees it: its metadata made once, its tensors for each 16-bit type."""

    def __init__(
        self, model: Path, name: str, tuned: Tuned | None, ggml: Ggml, scratch: Path, importance: Importance | None
    ) -> None:
        self.model, self.name, self.tuned, self.importance = model, name, tuned, importance
        self._ggml, self._shell, self._header = ggml, scratch / "shell", scratch / "header"
        self._metadata: dict[str, Any] | None = None

    def close(self) -> None:
        """Remove what was only there to be read."""
        for file in (self._shell, self._header):
            file.unlink(missing_ok=True)

    @cached_property
    def shell(self) -> tuple[Path, dict[str, Laid], dict[str, Any]]:
        """A file of the type nearest to the stored one, with a hole where its data would be."""
        _, laid, lazy = self._write_header("GUESSED", self._shell)
        with self._shell.open("ab") as file:
            file.truncate(file_bytes(laid.values()))
        return self._shell, laid, lazy

    def float_file(self, kind: str) -> tuple[bytes, dict[str, Laid], dict[str, Any]]:
        """Header, layout, and lazy tensors by name."""
        return self._write_header(f"MOSTLY_{kind}", self._header)

    def _write_header(self, file_type: str, path: Path) -> tuple[bytes, dict[str, Laid], dict[str, Any]]:
        import gguf

        converter = converter_for(self.model, gguf.LlamaFileType[file_type], path, self.name, self.tuned)
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
        return path.read_bytes(), self._ggml.laid(path), dict(writer.tensors[0])


@dataclass(frozen=True)
class _Part:
    """Rows of a stored tensor inside one of the GGUF."""

    tensor: str
    rows: int
    """Of the whole tensor in the GGUF."""
    order: Any
    """The row each stored row becomes there, int64."""


def _traces(model: Path) -> dict[str, list[_Part]]:
    """Where the rows of each stored tensor go, for those the converter only moves.

    Row numbers go through it in place of rows, and once more their squares: what comes out must agree.
    """
    import gguf
    import numpy as np
    import torch

    numbers, squares = (converter_for(model, gguf.LlamaFileType.MOSTLY_F16, model / "none", "none") for _ in range(2))
    first, firsts = 0, {}
    for name, source in numbers.sources.items():
        firsts[name] = first
        first += source.rows
    order, starts = list(firsts), np.array([*firsts.values(), first])
    found: dict[str, list[_Part]] = {}
    for name, source in numbers.sources.items():
        if len(source.shape) not in (1, 2):
            continue
        ids = torch.arange(firsts[name], firsts[name] + source.rows).view(-1, *[1] * (len(source.shape) - 1))
        for tensor, flat in _moved(numbers, squares, name, ids):
            owners = np.searchsorted(starts, flat, "right") - 1
            if any((owners == owner).sum() != numbers.sources[order[owner]].rows for owner in set(owners)):
                continue  # only some rows of a tensor: left to the converter itself
            for owner in np.unique(owners):
                there = np.flatnonzero(owners == owner)
                becomes = np.empty(len(there), np.int64)
                becomes[flat[there] - starts[owner]] = there
                found.setdefault(numbers.sources[order[owner]].name, []).append(_Part(tensor, len(flat), becomes))
    return found


def _moved(numbers: Any, squares: Any, name: str, ids: Any) -> Iterator[tuple[str, Any]]:
    """Names of tensors that rows went into, and the number each of their rows has; only if they were just moved."""
    import numpy as np

    block = next((int(part) for part in name.split(".") if part.isdecimal()), None)
    try:
        plain = list(numbers.modify_tensors(ids, name, block))
        mixed = list(squares.modify_tensors(_mixed(ids), name, block))
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError):
        return
    for (tensor, out), (same, checked) in zip(plain, mixed, strict=True):
        flat = out.reshape(-1).numpy().astype(np.int64)
        if tensor == same and (_mixed(flat) == checked.reshape(-1).numpy()).all() and len(np.unique(flat)) == len(flat):
            yield tensor, flat


def _mixed(numbers: Any) -> Any:
    """Of a kind that no sum or product of the numbers keeps."""
    return (numbers * numbers + 7 * numbers) % _PRIME


def _add(
    made: Plan, wanted: Wanted, model: "_Converted", base: Sequence[Stored], traces: dict[str, list[_Part]], ggml: Ggml
) -> None:
    """Put one file into the plan."""
    importance = model.importance if wanted.kind in Importance.PROFIT and wanted.tuned else None
    if wanted.kind in FLOATS:
        header, laid, lazy = model.float_file(wanted.kind)
        before = laid
    else:
        shell, before, lazy = model.shell
        kinds = ggml.chosen_types(shell, wanted.kind, importance.file if importance else None)
        header, laid = ggml.quantized_header(shell, wanted.kind, kinds, importance.metadata if importance else {})
    target, open_ = Target(wanted.path, file_bytes(laid.values()), header), dict(laid)
    for source in base:
        for part in traces.get(source.name, ()):
            if part.tensor not in laid:
                continue
            tensor = open_.pop(part.tensor, laid[part.tensor])
            row_bytes, shift = tensor.bytes // part.rows, int(part.order[0])
            moved = (part.order != range(shift, shift + source.rows)).any()
            weights = importance.weights.get(part.tensor) if importance else None
            place = Place(
                file=len(made.targets),
                tuned=wanted.tuned is not None,
                kind=tensor.kind,
                offset=tensor.offset if moved else tensor.offset + shift * row_bytes,
                row_bytes=row_bytes,
                rounded="float32" if before is laid else FLOATS[before[part.tensor].kind],
                order=part.order if moved else None,
                importance=weights,
                matrix=0 if weights is None else shift * len(weights) // part.rows,
            )
            made.places.setdefault(source.name, []).append(place)
    for name, tensor in open_.items():
        target.more.append((tensor.offset, partial(_whole, lazy[name].tensor, before[name].kind, tensor.kind, ggml)))
    made.targets.append(target)


def _whole(lazy: Any, stored_as: str, kind: str, ggml: Ggml) -> bytes:
    """A tensor that no stored rows became: what the converter makes of it."""
    import gguf
    import numpy as np

    value = gguf.LazyNumpyTensor.to_eager(lazy)
    if kind == stored_as:
        return bytes(value.tobytes())
    floats = np.ascontiguousarray(gguf.quants.dequantize(value, gguf.GGMLQuantizationType[stored_as]), np.float32)
    return bytes(ggml.quantized(kind, floats.reshape(-1, floats.shape[-1]), None).tobytes())


def gguf_names(model: Path) -> dict[str, str]:
    """What the converter calls each stored weight that becomes one tensor, its rows moved or not."""
    return {name: parts[0].tensor for name, parts in _traces(model).items() if len(parts) == 1}


def types(file: Path, ggml: Ggml) -> dict[str, int]:
    """Parameters by tensor type."""
    import gguf

    counted: Counter[str] = Counter()
    for tensor in ggml.laid(file).values():
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[tensor.kind]]
        counted[tensor.kind] += tensor.bytes // size * block
    return counted
