"""From messages to token ids and the mask of learned tokens, by the base's chat template.

Training, evaluation and serving use one template: the one beside the base's tokenizer, or, where that marks nothing,
ours that writes the same text (`templates.py`). Assistant turns stand inside `{% generation %}`;
only what is inside is learned. A row of plain text is learned whole.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue
from tuneline.stages.prepare.rendering.chat_templates import BEGIN, END, compiled, template_for
from tuneline.stages.prepare.rendering.word_cache import Tokens, Words
from tuneline.stages.prepare.rows import Row

SIGNATURES = "{%- set signatures = true %}"
"""Put before a template of ours, it writes a tool as a line."""
Measured = tuple[int, int, str]
"""Tokens of a row, how many of them are learned, and why the template refuses it, if it does."""
_MARKS = re.compile(f"[{BEGIN}{END}]")


@dataclass(frozen=True)
class Rendered:
    """Token ids of a row and, for each, 1 if it is learned."""

    ids: list[int]
    mask: list[int]


class Renderer:
    """Renders rows with one base's tokenizer and chat template."""

    def __init__(self, base: Path, catalogue: Catalogue | None, template: Path | None = None) -> None:
        """`template`, if there is such a file, is the one to render with: what `prepare` wrote for the tuned model."""
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(base, local_files_only=True)
        self.catalogue = catalogue
        own = template.read_text("utf-8") if template and template.exists() else self.tokenizer.chat_template
        self.template = template_for(base, own, self.tokenizer.get_vocab())
        """The base's own, or ours that writes the same text and marks what is learned; the tuned model's too."""
        self.is_own = self.template == own
        self.tokenizer.chat_template = self.template
        self._template, self._special = compiled(self.template), self.tokenizer.special_tokens_map
        self._words = Words.of(self.tokenizer.backend_tokenizer, self._cuts())
        self._shown: dict[tuple[str, ...], list[dict[str, Any]]] = {}

    def show_signatures(self) -> None:
        """From now on tools are written as a line each, by this and by the tuned model's template."""
        self.template, self.is_own = SIGNATURES + self.template, False
        self.tokenizer.chat_template, self._template = self.template, compiled(self.template)

    def _cuts(self) -> set[str]:
        """Control tokens that the template writes."""
        return {token for token in self.tokenizer.get_added_vocab() if token in self.template} | {
            str(token) for token in self._special.values()
        }

    def __call__(self, row: Row) -> Rendered:
        return next(self.batch([row]))

    def batch(self, rows: Sequence[Row]) -> Iterator[Rendered]:
        """Rows as ids and masks."""
        for ids, spans in self._tokens([self._marked(row.text, row.chat(), row.tools) for row in rows]):
            mask = [0] * len(ids)
            for first, end in spans:
                mask[first:end] = [1] * (end - first)
            yield Rendered(list(ids), mask)

    def measure(self, lines: Sequence[bytes]) -> list[Measured]:
        """Tokens and learned tokens of each row; rows are JSON, as they are written."""
        return [
            (len(ids), sum(end - first for first, end in spans), refused) for ids, spans, refused in self.tokens(lines)
        ]

    def tokens(self, lines: Sequence[bytes]) -> Iterator[tuple[Sequence[int], list[tuple[int, int]], str]]:
        """Ids of each row, (first, end) of its learned parts, and why the template refuses it, if it does."""
        import orjson

        rendered = [self._tried(orjson.loads(line)) for line in lines]
        for found, (_, refused) in zip(self._tokens([marked for marked, _ in rendered]), rendered, strict=True):
            yield *found, refused

    def _tried(self, row: dict[str, Any]) -> tuple[str, str]:
        from jinja2.exceptions import TemplateError

        try:
            return self._marked(row.get("text"), row["messages"], row["tools"]), ""
        except (TemplateError, TypeError, ValueError) as error:
            return "", str(error) or type(error).__name__

    def tools(self, row: Row) -> list[dict[str, Any]] | None:
        """The schemas a row shows, as the template takes them."""
        return self._schemas(row.tools)

    def _schemas(self, names: list[str]) -> list[dict[str, Any]] | None:
        if not self.catalogue or not names:
            return None
        key = tuple(names)
        if len(key) < 2 or key == self.catalogue.names:  # others hardly come twice
            if key not in self._shown:
                self._shown[key] = self.catalogue.openai(names)
            return self._shown[key]
        return self.catalogue.openai(names)

    def text(self, row: Row) -> tuple[str, list[tuple[int, int]]]:
        """A row as the model is shown it, and the parts of it that are learned, in characters."""
        return unmarked(self._marked(row.text, row.chat(), row.tools))

    def _marked(self, text: str | None, messages: list[dict[str, Any]], tools: list[str]) -> str:
        if text is not None and not messages:
            return f"{self.tokenizer.bos_token or ''}{BEGIN}{text}{self.tokenizer.eos_token or ''}{END}"
        marked: str = self._template.render(
            messages=messages,
            tools=self._schemas(tools),
            documents=None,
            add_generation_prompt=False,
            **self._special,
        )
        return marked

    def _tokens(self, texts: Sequence[str]) -> Iterator[Tokens]:
        """Of marked texts; those whose words cannot be told apart are tokenized whole, on all cores."""
        found = [self._words.tokens(text) if self._words is not None else None for text in texts]
        whole = [unmarked(text) for text, tokens in zip(texts, found, strict=True) if tokens is None]
        encoded = self.tokenizer.backend_tokenizer.encode_batch([text for text, _ in whole], add_special_tokens=False)
        others = iter(zip(encoded, [spans for _, spans in whole], strict=True))
        for tokens in found:
            if tokens is None:
                encoding, spans = next(others)
                tokens = encoding.ids, list(learned(encoding, spans))
            yield tokens


def unmarked(marked: str) -> tuple[str, list[tuple[int, int]]]:
    pieces, spans, length, begin = _MARKS.split(marked), [], 0, 0
    for piece, mark in zip(pieces, _MARKS.findall(marked) + [""], strict=True):
        length += len(piece)
        if mark == BEGIN:
            begin = length
        elif mark == END:
            spans.append((begin, length))
    return "".join(pieces), spans


def learned(encoding: Any, spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(first, end) of each span, in tokens. Byte-level tokenizers leave spaces at a token's edge out of its offsets."""
    for begin, end in spans:
        first = next((t for at in range(begin, end) if (t := encoding.char_to_token(at)) is not None), None)
        last = next((t for at in range(end - 1, begin - 1, -1) if (t := encoding.char_to_token(at)) is not None), None)
        if first is not None and last is not None:
            yield first, last + 1
