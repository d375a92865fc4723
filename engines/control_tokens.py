"""Control tokens in what callers send, written so that a model reads them as text.

An engine tokenizes a whole prompt at once, so a control token in a user's text would be a real one: a forged turn. With
a space after its first character it is none.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tuneline.core.errors import StageFailed
from tuneline.engines.llama_cpp.gguf_metadata import read_metadata

KEPT_FIELDS = frozenset({"model", "prompt", "stop", "stop_sequences", "logit_bias"})
"""Of a request: names, and `prompt`, which is written in the model's own format by whoever sends it."""
TOKENS, TYPES, TEMPLATE = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.chat_template"
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
"""Types of tokens that llama.cpp finds in a text (llama.h, `llama_token_type`)."""


class ControlTokens:
    """The texts that one tokenizer makes control tokens of."""

    def __init__(self, texts: Collection[str]) -> None:
        longest_first = sorted(filter(None, texts), key=len, reverse=True)
        self.texts = frozenset(longest_first)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def neutralize(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request's body without control tokens in messages, names, tools and schemas."""
        return {name: value if name in KEPT_FIELDS else self._clean(value) for name, value in body.items()}

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._clean_text(value)
        if isinstance(value, dict):
            return {self._clean_text(key): self._clean(item) for key, item in value.items()}
        return self._clean_list(value) if isinstance(value, list) else value

    def _clean_text(self, text: str) -> str:
        while self._pattern.search(text):
            text = self._pattern.sub(lambda token: f"{token[0][0]} {token[0][1:]}".rstrip(), text)
        return text

    def _clean_list(self, values: list[Any]) -> list[Any]:
        """Clean each value; text parts, which a template may join, are held apart if they form a token together."""
        cleaned = [self._clean(value) for value in values]
        parts = [part for part in cleaned if isinstance(part, dict) and isinstance(part.get("text"), str)]
        if self._pattern.search("".join(part["text"] for part in parts)):
            for part in parts[1:]:
                part["text"] = f" {part['text']}"
        return cleaned


def read_gguf_tokens(file: Path) -> ControlTokens:
    """Return the control tokens of a GGUF: those of that type, and those defined by its maker that its template writes.

    Raises:
        StageFailed: it is no GGUF, or damaged.
    """
    metadata = read_metadata(file, (TOKENS, TYPES, TEMPLATE))
    written, pairs = (
        metadata.get(TEMPLATE, ""),
        list(zip(metadata.get(TOKENS, ()), metadata.get(TYPES, ()), strict=True)),
    )
    special = {text for text, kind in pairs if kind in (UNKNOWN, CONTROL)}
    others = {text for text, kind in pairs if kind == USER_DEFINED and text.strip()}
    return ControlTokens(special | {text for text in others if text in written})


def read_tokenizer_tokens(folder: Path, template: str | None = None) -> ControlTokens:
    """Return the control tokens of a `tokenizer.json`: its special tokens, and added ones that the template writes.

    Raises:
        StageFailed: there is none in the folder, or it is damaged.
    """
    file = folder / "tokenizer.json"
    try:
        added, written = json.loads(file.read_bytes())["added_tokens"], template or _read_template(folder)
        special = {token["content"] for token in added if token["special"]}
        others = {token["content"] for token in added if token["content"].strip()}
    except (OSError, ValueError, KeyError, TypeError):
        raise StageFailed(f"{file}: its control tokens cannot be read") from None
    return ControlTokens(special | {text for text in others if text in written})


def _read_template(folder: Path) -> str:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text("utf-8")
    settings = folder / "tokenizer_config.json"
    return str(json.loads(settings.read_bytes()).get("chat_template") or "") if settings.exists() else ""
