"""A GGUF loaded by libllama: its vocabulary, its template, and the logits it gives; by llama-cpp-python's own bindings.

The bindings are of the same pinned source. Only their one module of signatures is imported: the package around it wants
more packages and its own build.
"""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from tuneline.core.errors import StageFailed
from tuneline.engines.llama_cpp.build import LlamaCpp

if TYPE_CHECKING:
    import numpy as np

ONE_THREAD_BYTES = 50_000_000
"""Threads meet at every matrix; below this size they wait longer than they work."""


@cache
def _bindings(llama: LlamaCpp) -> Any:
    os.environ["LLAMA_CPP_LIB_PATH"] = str(llama.quantize.parent)
    package = ModuleType("llama_cpp")
    package.__path__ = [str(llama.source.parents[1] / "llama_cpp")]
    sys.modules["llama_cpp"] = package
    import llama_cpp.llama_cpp as bindings

    silent = bindings.llama_log_callback(lambda level, text, data: None)
    bindings.llama_log_set(silent, None)
    bindings.silent = silent  # ctypes frees a callback nobody holds
    bindings.llama_backend_init()
    return bindings


class Gguf:
    """One file, loaded; `context` tokens at a time, 0 for its vocabulary alone.

    Raises:
        StageFailed: libllama does not load it.
    """

    def __init__(self, llama: LlamaCpp, file: Path, *, context: int = 0, threads: int = 1) -> None:
        self.file, self.context = file, context
        self._llama = library = _bindings(llama)
        settings = library.llama_model_default_params()
        settings.vocab_only = not context
        self._model = library.llama_model_load_from_file(str(file).encode(), settings)
        if not self._model:
            raise StageFailed(f"{file}: llama.cpp does not load it")
        self._vocabulary = library.llama_model_get_vocab(self._model)
        self.tokens = library.llama_vocab_n_tokens(self._vocabulary)
        self._context = self._open(threads) if context else None

    def _open(self, threads: int) -> Any:
        library, settings = self._llama, self._llama.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = self.context
        settings.n_seq_max = 1
        settings.n_outputs_max = self.context
        used = 1 if self.file.stat().st_size < ONE_THREAD_BYTES else threads
        settings.n_threads = settings.n_threads_batch = used
        opened = library.llama_init_from_model(self._model, settings)
        if not opened:
            raise StageFailed(f"{self.file}: llama.cpp makes no context of {self.context} tokens for it")
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._context:
            self._llama.llama_free(self._context)
        self._llama.llama_model_free(self._model)

    @property
    def template(self) -> str:
        """Its chat template, empty if it has none."""
        found = self._llama.llama_model_chat_template(self._model, None)
        return found.decode() if found else ""

    def ends(self, token: int) -> bool:
        """Whether generation stops at this token."""
        return bool(self._llama.llama_vocab_is_eog(self._vocabulary, token))

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, special tokens in it read as such, none added."""
        data = text.encode()
        room = len(data) + 8
        tokens = (self._llama.llama_token * room)()
        count = self._llama.llama_tokenize(self._vocabulary, data, len(data), tokens, room, False, True)
        return list(tokens[: max(count, 0)])

    def logits(self, ids: list[int]) -> "np.ndarray":
        """Of every position, [tokens, vocabulary], fp32; valid until the next call.

        Raises:
            StageFailed: libllama gives up.
        """
        import numpy as np

        library = self._llama
        library.llama_memory_clear(library.llama_get_memory(self._context), True)
        batch = library.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for place, token in enumerate(ids):
                batch.token[place], batch.pos[place], batch.logits[place] = token, place, True
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            if library.llama_decode(self._context, batch):
                raise StageFailed(f"{self.file}: llama.cpp computes no logits of {len(ids)} tokens")
        finally:
            library.llama_batch_free(batch)
        found = ctypes.cast(library.llama_get_logits(self._context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(found, (len(ids), self.tokens))
