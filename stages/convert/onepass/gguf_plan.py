"""GGUF files as llama.cpp's own `conversion` package lays them out, planned without reading a weight.

The package's model class decides everything (names, metadata, tokenizer, which rows go where); its tensors stay lazy.
Runs in a process of its own: the vendored gguf-py must be imported before any other `gguf`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from tuneline.stages.checkpoints.safetensors_files import StoredTensor, list_model_tensors
from tuneline.stages.convert.onepass.converter import TunedModel, make_converter
from tuneline.stages.convert.onepass.ggml import Ggml, GgufTensor, file_size
from tuneline.stages.convert.onepass.importance_matrix import IMPROVED_TYPES, ImportanceMatrix
from tuneline.stages.convert.onepass.output_files import Destination, OutputFile
from tuneline.stages.convert.onepass.row_traces import RowTrace, trace_rows

FLOATS = ("F16", "BF16", "F32")
"""Types that the converter itself writes."""


@dataclass(frozen=True)
class GgufFile:
    """A GGUF to write."""

    path: Path
    kind: str
    """Its file type."""
    name: str
    """The model's name inside the file."""
    tuned: TunedModel | None
    """None for the base itself."""


@dataclass
class Plan:
    """The files that a pass writes, and the destinations of each stored tensor in them."""

    files: list[OutputFile] = field(default_factory=list)
    destinations: dict[str, list[Destination]] = field(default_factory=dict)

    def add(self, tensor: StoredTensor, destination: Destination) -> None:
        """Send the rows of `tensor` to one more destination."""
        self.destinations.setdefault(tensor.name, []).append(destination)


@dataclass(frozen=True)
class _Layout:
    """A GGUF: its header, its tensors by name, and the lazy float tensors they are made of."""

    header: bytes
    tensors: dict[str, GgufTensor]
    float_tensors: dict[str, GgufTensor]
    """The tensors in the fp32 file; in a file that the converter writes, `tensors` itself."""
    lazy: dict[str, Any]
    importance: ImportanceMatrix | None = None

    @property
    def is_float(self) -> bool:
        return self.float_tensors is self.tensors


def plan_files(
    model: Path, files: Sequence[GgufFile], ggml: Ggml, scratch: Path, importance: ImportanceMatrix | None = None
) -> Plan:
    """Return how to write `files` from the base in the folder `model`; `scratch` holds headers meanwhile.

    `importance` is used for the types of the tuned model that it improves.
    """
    plan, traces = Plan(), trace_rows(model)
    base = list_model_tensors(model)
    for tuned in {id(file.tuned): file.tuned for file in files}.values():
        same_model = [file for file in files if file.tuned is tuned]
        layouts = _ModelLayouts(model, same_model[0].name, tuned, ggml, scratch)
        for file in same_model:
            improved = file.kind in IMPROVED_TYPES and tuned
            _plan_file(plan, file, layouts.layout(file.kind, importance if improved else None), base, traces, ggml)
        layouts.close()
    return plan


class _ModelLayouts:
    """The GGUF layouts of one model. The converter makes its metadata once, and its tensors for each float type."""

    def __init__(self, model: Path, name: str, tuned: TunedModel | None, ggml: Ggml, scratch: Path) -> None:
        self._model, self._name, self._tuned, self._ggml = model, name, tuned, ggml
        self._shell, self._header = scratch / "shell", scratch / "header"
        self._metadata: dict[str, Any] | None = None

    def layout(self, kind: str, importance: ImportanceMatrix | None) -> _Layout:
        """Return the layout of a file of type `kind`."""
        if kind in FLOATS:
            return self._convert(f"MOSTLY_{kind}", self._header)
        source = self._source  # writes the shell
        types = self._ggml.choose_types(self._shell, kind, importance.file if importance else None)
        metadata = importance.metadata if importance else {}
        header, tensors = self._ggml.build_header(self._shell, kind, types, metadata)
        return _Layout(header, tensors, source.tensors, source.lazy, importance)

    def close(self) -> None:
        """Remove the temporary files."""
        for file in (self._shell, self._header):
            file.unlink(missing_ok=True)

    @cached_property
    def _source(self) -> _Layout:
        """The layout in fp32, so that sums are rounded once; the shell is its file with a hole in place of the data."""
        source = self._convert("ALL_F32", self._shell)
        with self._shell.open("ab") as file:
            file.truncate(file_size(source.tensors.values()))
        return source

    def _convert(self, file_type: str, path: Path) -> _Layout:
        """Write the header of a file that the converter makes, and return its layout."""
        import gguf

        converter = make_converter(self._model, gguf.LlamaFileType[file_type], path, self._name, self._tuned)
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
        tensors = self._ggml.read_tensors(path)
        return _Layout(path.read_bytes(), tensors, tensors, dict(writer.tensors[0]))


def _plan_file(
    plan: Plan,
    file: GgufFile,
    layout: _Layout,
    base: Iterable[StoredTensor],
    traces: Mapping[str, Sequence[RowTrace]],
    ggml: Ggml,
) -> None:
    """Add one file to the plan."""
    output = OutputFile(file.path, file_size(layout.tensors.values()), layout.header)
    untraced = dict(layout.tensors)
    for source in base:
        for trace in traces.get(source.name, ()):
            if trace.tensor in layout.tensors:
                untraced.pop(trace.tensor, None)
                plan.add(source, _find_destination(len(plan.files), file, layout, source, trace))
    for name, tensor in untraced.items():
        float_kind = layout.float_tensors[name].kind
        compute = partial(_convert_tensor, layout.lazy[name].tensor, float_kind, tensor.kind, ggml)
        output.computed.append((tensor.offset, compute))
    plan.files.append(output)


def _find_destination(
    index: int, file: GgufFile, layout: _Layout, source: StoredTensor, trace: RowTrace
) -> Destination:
    tensor = layout.tensors[trace.tensor]
    row_bytes, shift = tensor.bytes // trace.rows, int(trace.order[0])
    reordered = (trace.order != range(shift, shift + source.rows)).any()
    weights = layout.importance.weights.get(trace.tensor) if layout.importance else None
    return Destination(
        file=index,
        tuned=file.tuned is not None,
        kind=tensor.kind,
        offset=tensor.offset if reordered else tensor.offset + shift * row_bytes,
        row_bytes=row_bytes,
        order=trace.order if reordered else None,
        importance=weights,
        matrix=0 if weights is None else shift * len(weights) // trace.rows,
    )


def _convert_tensor(lazy: Any, float_kind: str, kind: str, ggml: Ggml) -> bytes:
    """Return a tensor that is not made of stored rows, as the converter computes it, in the type `kind`."""
    import gguf
    import numpy as np

    value = gguf.LazyNumpyTensor.to_eager(lazy)
    if kind == float_kind:
        return bytes(value.tobytes())
    floats = np.ascontiguousarray(gguf.quants.dequantize(value, gguf.GGMLQuantizationType[float_kind]), np.float32)
    return bytes(ggml.quantize(kind, floats.reshape(-1, floats.shape[-1]), None).tobytes())
