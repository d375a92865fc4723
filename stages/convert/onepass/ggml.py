"""llama.cpp's own arithmetic and rules, called in its libraries: rows quantized, tensor types chosen, headers written.

`llama-quantize --dry-run` chooses the types, on a file that has a header and a hole instead of data, so that no rule is
repeated here (70B, experts, tied embeddings, rows that do not divide).
"""

import ctypes
import re
import subprocess
from collections.abc import Iterable
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
"""Of llama-quantize's log: a tensor's name, the type it has, and the one it gets if that differs."""


@dataclass(frozen=True)
class Laid:
    """A tensor of a GGUF: its type as ggml calls it, in capitals, and where its data starts in the file."""

    kind: str
    offset: int
    bytes: int


class _InitParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(ctypes.c_void_p))]


@cache
def _library(folder: Path) -> Any:
    """libggml-base; the signatures of ggml.h and gguf.h that are used."""
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
    """The libraries of one installed llama.cpp, and the types its gguf-py knows by name."""

    def __init__(self, llama: LlamaCpp) -> None:
        import gguf

        self.llama, self.library = llama, _library(llama.quantize.parent)
        self.types = {kind.name: int(kind) for kind in gguf.GGMLQuantizationType}
        self.names = {number: name for name, number in self.types.items()}
        self.file_types = {kind.name.removeprefix("MOSTLY_"): int(kind) for kind in gguf.LlamaFileType}
        self.version = gguf.GGML_QUANT_VERSION

    def row_bytes(self, kind: str, columns: int) -> int:
        return int(self.library.ggml_row_size(self.types[kind], columns))

    def quantized(
        self, kind: str, rows: "np.ndarray", importance: "np.ndarray | None", out: "np.ndarray | None" = None
    ) -> "np.ndarray":
        """Rows, fp32 and contiguous, as rows of bytes of a type; in `out` if it is given.

        Raises:
            StageFailed: what came out is no number.
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

    def chosen_types(self, shell: Path, kind: str, importance: Path | None) -> dict[str, str]:
        """The type of each tensor of `shell` in a file of type `kind`, in the order llama-quantize writes them."""
        given = ["--imatrix", str(importance)] if importance else []
        command = [str(self.llama.quantize), *given, "--dry-run", str(shell), kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).splitlines()
        if done.returncode:
            raise StageFailed(f"llama-quantize refused {kind}:\n" + "\n".join(lines[-LAST_LINES:]))
        found = [match for line in lines if (match := _LINE.fullmatch(line.strip()))]
        return {match[1]: (match[3] or match[2]).upper() for match in found}

    def quantized_header(
        self, shell: Path, kind: str, types: dict[str, str], more: dict[str, str | int]
    ) -> tuple[bytes, dict[str, Laid]]:
        """The header llama-quantize writes for `shell` in `types`, and where each tensor comes to lie."""
        library, tensors = self.library, ctypes.c_void_p()
        source = library.gguf_init_from_file(str(shell).encode(), _InitParams(True, ctypes.pointer(tensors)))
        out = library.gguf_init_empty()
        try:
            library.gguf_set_kv(out, source)
            library.gguf_set_val_u32(out, b"general.quantization_version", self.version)
            library.gguf_set_val_u32(out, b"general.file_type", self.file_types[kind])
            for key, value in more.items():
                if isinstance(value, str):
                    library.gguf_set_val_str(out, key.encode(), value.encode())
                else:
                    library.gguf_set_val_u32(out, key.encode(), value)
            for name, chosen in types.items():
                library.gguf_add_tensor(out, library.ggml_get_tensor(tensors, name.encode()))
                library.gguf_set_tensor_type(out, name.encode(), self.types[chosen])
            header = ctypes.create_string_buffer(library.gguf_get_meta_size(out))
            library.gguf_get_meta_data(out, header)
            return header.raw, self._laid(out, len(header))
        finally:
            library.gguf_free(out)
            library.gguf_free(source)
            library.ggml_free(tensors)

    def laid(self, file: Path) -> dict[str, Laid]:
        """The tensors of a GGUF with a whole header."""
        context = self.library.gguf_init_from_file(str(file).encode(), _InitParams(True, None))
        try:
            return self._laid(context, int(self.library.gguf_get_meta_size(context)))
        finally:
            self.library.gguf_free(context)

    def _laid(self, context: Any, start: int) -> dict[str, Laid]:
        library = self.library
        return {
            library.gguf_get_tensor_name(context, i).decode(): Laid(
                self.names[library.gguf_get_tensor_type(context, i)],
                start + library.gguf_get_tensor_offset(context, i),
                library.gguf_get_tensor_size(context, i),
            )
            for i in range(library.gguf_get_n_tensors(context))
        }


def file_bytes(laid: Iterable[Laid]) -> int:
    """How long a GGUF with these tensors is; each is padded to 32 bytes."""
    return max(-(-(tensor.offset + tensor.bytes) // 32) * 32 for tensor in laid)
