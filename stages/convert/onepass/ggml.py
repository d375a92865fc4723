"""llama.cpp's own arithmetic and rules, called in its libraries: rows quantized, tensor types chosen, headers written.

`llama-quantize --dry-run` chooses the types, on a file with a header and a hole instead of data, so that none of its
rules is repeated here (70B, experts, tied embeddings, row lengths that no block divides).
"""

import ctypes
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.core.errors import StageFailed
from tuneline.engines.llama_cpp.build import LlamaCpp

if TYPE_CHECKING:
    import numpy as np

LAST_LINES = 8
_LINE = re.compile(r"\[ *\d+/ *\d+\] (\S+) +- \[.*\], type = +(\w+), size = .*?(?: -> .*\((\w+)\))?")
"""A line of llama-quantize's log: a tensor's name, the type it has, and the one it gets if that differs."""


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF."""

    kind: str
    """Its type as ggml calls it, in capitals."""
    offset: int
    """Of its data, from the start of the file."""
    bytes: int


class _InitParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(ctypes.c_void_p))]


@cache
def _load_library(folder: Path) -> Any:
    """Return libggml-base with the signatures of ggml.h and gguf.h that are used here."""
    library, pointer, text, size = (
        ctypes.CDLL(str(folder / "libggml-base.so")),
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
    )
    i32, i64 = ctypes.c_int, ctypes.c_int64
    for name, result, arguments in (
        ("ggml_quantize_chunk", size, [i32, pointer, pointer, i64, i64, i64, pointer]),
        ("ggml_validate_row_data", ctypes.c_bool, [i32, pointer, size]),
        ("ggml_row_size", size, [i32, i64]),
        ("ggml_get_tensor", pointer, [pointer, text]),
        ("ggml_free", None, [pointer]),
        ("gguf_init_from_file", pointer, [text, _InitParams]),
        ("gguf_init_empty", pointer, []),
        ("gguf_free", None, [pointer]),
        ("gguf_set_kv", None, [pointer, pointer]),
        ("gguf_set_val_u32", None, [pointer, text, ctypes.c_uint32]),
        ("gguf_set_val_str", None, [pointer, text, text]),
        ("gguf_add_tensor", None, [pointer, pointer]),
        ("gguf_set_tensor_type", None, [pointer, text, i32]),
        ("gguf_get_meta_size", size, [pointer]),
        ("gguf_get_meta_data", None, [pointer, pointer]),
        ("gguf_get_n_tensors", i64, [pointer]),
        ("gguf_get_tensor_name", text, [pointer, i64]),
        ("gguf_get_tensor_offset", size, [pointer, i64]),
        ("gguf_get_tensor_size", size, [pointer, i64]),
        ("gguf_get_tensor_type", i32, [pointer, i64]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Ggml:
    """The libraries of an installed llama.cpp, and the tensor types that its gguf-py knows by name."""

    def __init__(self, llama: LlamaCpp) -> None:
        import gguf

        self.llama, self.library = llama, _load_library(llama.quantize.parent)
        self.types = {kind.name: int(kind) for kind in gguf.GGMLQuantizationType}
        self.names = {number: name for name, number in self.types.items()}
        self.file_types = {kind.name.removeprefix("MOSTLY_"): int(kind) for kind in gguf.LlamaFileType}
        self.version = gguf.GGML_QUANT_VERSION

    def row_bytes(self, kind: str, columns: int) -> int:
        """Return the size of a row in the tensor type `kind`."""
        return int(self.library.ggml_row_size(self.types[kind], columns))

    def quantize(
        self, kind: str, rows: "np.ndarray", importance: "np.ndarray | None", out: "np.ndarray | None" = None
    ) -> "np.ndarray":
        """Return rows, fp32 and contiguous, in the tensor type `kind`: uint8, [rows, bytes of a row].

        They are written to `out` if it is given. `importance` weighs the columns.

        Raises:
            StageFailed: the result is not finite.
        """
        import numpy as np

        count, columns = rows.shape
        if out is None:
            out = np.empty((count, self.row_bytes(kind, columns)), np.uint8)
        weights = None if importance is None else importance.ctypes.data
        number = self.types[kind]
        self.library.ggml_quantize_chunk(number, rows.ctypes.data, out.ctypes.data, 0, count, columns, weights)
        if not self.library.ggml_validate_row_data(number, out.ctypes.data, out.nbytes):
            raise StageFailed(f"{kind}: the weights are not finite numbers; is the adapter broken?")
        return out

    def choose_types(self, shell: Path, file_type: str, importance: Path | None) -> dict[str, str]:
        """Return each tensor's type in a file of `file_type`, in the order in which llama-quantize writes them.

        `shell` is the 16-bit file, of which only the header is read; `importance` is the importance matrix.
        """
        options = ["--imatrix", str(importance)] if importance else []
        command = [str(self.llama.quantize), *options, "--dry-run", str(shell), file_type]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = (process.stdout + process.stderr).splitlines()
        if process.returncode:
            raise StageFailed(f"llama-quantize refused {file_type}:\n" + "\n".join(lines[-LAST_LINES:]))
        matches = [match for line in lines if (match := _LINE.fullmatch(line.strip()))]
        return {match[1]: (match[3] or match[2]).upper() for match in matches}

    def build_header(
        self, shell: Path, file_type: str, types: Mapping[str, str], metadata: Mapping[str, str | int]
    ) -> tuple[bytes, dict[str, GgufTensor]]:
        """Return the header that llama-quantize writes for `shell` in `types`, and the tensors it describes.

        `metadata` is added to that of `shell`.
        """
        library, tensors = self.library, ctypes.c_void_p()
        source = library.gguf_init_from_file(str(shell).encode(), _InitParams(True, ctypes.pointer(tensors)))
        out = library.gguf_init_empty()
        try:
            library.gguf_set_kv(out, source)
            library.gguf_set_val_u32(out, b"general.quantization_version", self.version)
            library.gguf_set_val_u32(out, b"general.file_type", self.file_types[file_type])
            for key, value in metadata.items():
                if isinstance(value, str):
                    library.gguf_set_val_str(out, key.encode(), value.encode())
                else:
                    library.gguf_set_val_u32(out, key.encode(), value)
            for name, kind in types.items():
                library.gguf_add_tensor(out, library.ggml_get_tensor(tensors, name.encode()))
                library.gguf_set_tensor_type(out, name.encode(), self.types[kind])
            header = ctypes.create_string_buffer(library.gguf_get_meta_size(out))
            library.gguf_get_meta_data(out, header)
            return header.raw, self._list_tensors(out, len(header))
        finally:
            library.gguf_free(out)
            library.gguf_free(source)
            library.ggml_free(tensors)

    def read_tensors(self, file: Path) -> dict[str, GgufTensor]:
        """Return the tensors of a GGUF by name; only its header is read."""
        context = self.library.gguf_init_from_file(str(file).encode(), _InitParams(True, None))
        try:
            return self._list_tensors(context, int(self.library.gguf_get_meta_size(context)))
        finally:
            self.library.gguf_free(context)

    def _list_tensors(self, context: Any, start: int) -> dict[str, GgufTensor]:
        library = self.library
        return {
            library.gguf_get_tensor_name(context, i).decode(): GgufTensor(
                self.names[library.gguf_get_tensor_type(context, i)],
                start + library.gguf_get_tensor_offset(context, i),
                library.gguf_get_tensor_size(context, i),
            )
            for i in range(library.gguf_get_n_tensors(context))
        }

    def count_parameters(self, file: Path) -> dict[str, int]:
        """Return the parameters of a GGUF by tensor type."""
        import gguf

        parameters: Counter[str] = Counter()
        for tensor in self.read_tensors(file).values():
            block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[tensor.kind]]
            parameters[tensor.kind] += tensor.bytes // size * block
        return parameters


def file_size(tensors: Iterable[GgufTensor]) -> int:
    """Return the size of a GGUF with these tensors; each is padded to 32 bytes."""
    return max(-(-(tensor.offset + tensor.bytes) // 32) * 32 for tensor in tensors)
