"""A GGUF file loaded by libllama: its vocabulary, its chat template and its logits.

It is called through llama-cpp-python's bindings, of the same pinned source. Only their module of signatures is
imported: the package around it requires more packages and a build of its own.
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
from tuneline.engines.llama_cpp.threads import limit_threads

if TYPE_CHECKING:
    import numpy as np


@cache
def _load_bindings(llama: LlamaCpp) -> Any:
    """Import the bindings without their package's `__init__`, silence llama.cpp's log, and initialize it once."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(llama.quantize.parent)
    package = ModuleType("llama_cpp")
    package.__path__ = [str(llama.source.parents[1] / "llama_cpp")]
    sys.modules["llama_cpp"] = package
    import llama_cpp.llama_cpp as bindings

    silent = bindings.llama_log_callback(lambda level, text, data: None)
    bindings.llama_log_set(silent, None)
    bindings.silent = silent  # ctypes frees a callback without a reference
    bindings.llama_backend_init()
    return bindings


class Gguf:
    """A loaded file, closed at the end of a `with` block.

    `context` is the longest input in tokens; 0 loads the vocabulary alone.

    Raises:
        StageFailed: libllama does not load it.
    """

    def __init__(self, llama: LlamaCpp, file: Path, *, context: int = 0, threads: int = 1) -> None:
        self.file, self.context = file, context
        self._llama = library = _load_bindings(llama)
        settings = library.llama_model_default_params()
        settings.vocab_only = not context
        self._model = library.llama_model_load_from_file(str(file).encode(), settings)
        if not self._model:
            raise StageFailed(f"{file}: llama.cpp cannot load it")
        self._vocabulary = library.llama_model_get_vocab(self._model)
        self.vocabulary_size: int = library.llama_vocab_n_tokens(self._vocabulary)
        self._context = self._create_context(threads) if context else None

    def _create_context(self, threads: int) -> Any:
        library, settings = self._llama, self._llama.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = self.context
        settings.n_seq_max = 1
        settings.n_outputs_max = self.context
        settings.n_threads = settings.n_threads_batch = limit_threads(self.file, threads)
        context = library.llama_init_from_model(self._model, settings)
        if not context:
            raise StageFailed(f"{self.file}: llama.cpp cannot create a context of {self.context} tokens for it")
        return context

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._context:
            self._llama.llama_free(self._context)
        self._llama.llama_model_free(self._model)

    @property
    def chat_template(self) -> str:
        """The file's chat template; empty if it has none."""
        template = self._llama.llama_model_chat_template(self._model, None)
        return template.decode() if template else ""

    def is_end_of_generation(self, token: int) -> bool:
        """Return whether generation stops at this token."""
        return bool(self._llama.llama_vocab_is_eog(self._vocabulary, token))

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text. Special tokens in it are recognized; none are added."""
        data = text.encode()
        capacity = len(data) + 8
        tokens = (self._llama.llama_token * capacity)()
        count = self._llama.llama_tokenize(self._vocabulary, data, len(data), tokens, capacity, False, True)
        return list(tokens[: max(count, 0)])

    def logits(self, ids: list[int]) -> "np.ndarray":
        """Return the logits of every position: [tokens, vocabulary], fp32, valid until the next call.

        Raises:
            StageFailed: libllama cannot compute them.
        """
        import numpy as np

        library = self._llama
        library.llama_memory_clear(library.llama_get_memory(self._context), True)
        batch = library.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for position, token in enumerate(ids):
                batch.token[position], batch.pos[position], batch.logits[position] = token, position, True
                batch.n_seq_id[position], batch.seq_id[position][0] = 1, 0
            if library.llama_decode(self._context, batch):
                raise StageFailed(f"{self.file}: llama.cpp cannot compute logits for {len(ids)} tokens")
        finally:
            library.llama_batch_free(batch)
        logits = ctypes.cast(library.llama_get_logits(self._context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(logits, (len(ids), self.vocabulary_size))
