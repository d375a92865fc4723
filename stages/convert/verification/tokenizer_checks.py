"""Token ids, chat template and stop tokens of each file, compared with the tokenizer in transformers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuneline.engines.llama_cpp.build import LlamaCpp
from tuneline.engines.llama_cpp.libllama import Gguf
from tuneline.stages.convert.conversations import tokenize
from tuneline.stages.convert.verification.check import Check
from tuneline.stages.convert.verification.samples import Samples
from tuneline.stages.prepare.rendering.stop_tokens import base_stop_ids, stop_token_ids


def check_gguf_tokenizer(llama: LlamaCpp, file: Path, samples: Samples) -> Iterator[Check]:
    """Yield the checks of a GGUF, as llama.cpp reads it."""
    tokenizer, texts = samples.tokenizer, samples.texts
    with Gguf(llama, file) as loaded:
        wrong = [text for text in texts if loaded.tokenize(text) != tokenize(tokenizer, text)]
        detail = f"{len(texts)} texts"
        if wrong:
            detail = f"{len(wrong)} of {detail} have different ids than in transformers: {wrong[0][:80]!r}"
        yield Check("token_ids", file.name, not wrong, detail)
        yield _check_template(file, loaded.chat_template, tokenizer.chat_template or "")
        stops = stop_token_ids(tokenizer)
        missing = [token for token in stops if not loaded.is_end_of_generation(token)]
        names = ", ".join(tokenizer.convert_ids_to_tokens(missing or stops))
        yield Check("stop_tokens", file.name, not missing, f"{'does not stop at ' if missing else ''}{names}")


def check_checkpoint_tokenizer(folder: Path, samples: Samples) -> Iterator[Check]:
    """Yield the checks of a checkpoint's folder, as transformers reads it."""
    from transformers import AutoTokenizer

    tokenizer, texts = samples.tokenizer, samples.texts
    loaded: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    wrong = [text for text in texts if loaded(text).input_ids != tokenizer(text).input_ids]
    yield Check("token_ids", folder.name, not wrong, f"{len(wrong)} of {len(texts)} texts have different ids")
    yield _check_template(folder, loaded.chat_template, tokenizer.chat_template)
    stops = base_stop_ids(loaded), stop_token_ids(tokenizer)
    actual, expected = (", ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in stops)
    yield Check("stop_tokens", folder.name, actual == expected, f"{actual}; expected {expected}")


def _check_template(file: Path, actual: str | None, expected: str | None) -> Check:
    same = actual == expected
    return Check("template", file.name, same, "the same text" if same else "not the text the model was trained with")
