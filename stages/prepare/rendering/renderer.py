"""Renders rows with the base's chat template and tokenizes them into token ids and a loss mask.

Training, evaluation and serving use the same template: the one beside the base's tokenizer, or one of ours that writes
the same text (see `chat_templates.py`). The loss covers what is inside `{% generation %}`, that is the assistant's
turns. It covers all of a row of plain text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue
from tuneline.stages.prepare.rendering.chat_templates import LOSS_BEGIN, LOSS_END, choose_template, compile_template
from tuneline.stages.prepare.rendering.word_cache import TokenizedText, WordCache
from tuneline.stages.prepare.rows import Row

SIGNATURES = "{%- set signatures = true %}"
"""Put before a template of ours, it writes each tool as one line."""
RowMeasure = tuple[int, int, str]
"""(tokens of a row, tokens in the loss, why the template refuses the row or an empty string)."""
Spans = list[tuple[int, int]]
"""(first, end) of each part that is in the loss."""
_MARKS = re.compile(f"[{LOSS_BEGIN}{LOSS_END}]")


@dataclass(frozen=True)
class Rendered:
    """Token ids of a row and its loss mask: 1 for each token in the loss, else 0."""

    ids: list[int]
    mask: list[int]


class Renderer:
    """Renders rows with one base's tokenizer and chat template."""

    def __init__(self, base: Path, catalogue: Catalogue | None, template: Path | None = None) -> None:
        """`template` is the file in which `prepare` wrote the tuned model's template; the base's is used without it."""
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(base, local_files_only=True)
        self.catalogue = catalogue
        base_template = template.read_text("utf-8") if template and template.exists() else self.tokenizer.chat_template
        self.template = choose_template(base, base_template, self.tokenizer.get_vocab())
        """The template of the base and of the tuned model: the base's own, or one of ours that writes the same text."""
        self.is_base_template = self.template == base_template
        self.tokenizer.chat_template = self.template
        self._template, self._special = compile_template(self.template), self.tokenizer.special_tokens_map
        self._word_cache = WordCache.for_tokenizer(self.tokenizer.backend_tokenizer, self._control_tokens())
        self._schema_cache: dict[tuple[str, ...], list[dict[str, Any]]] = {}

    def show_signatures(self) -> None:
        """Write each tool as one line from now on, with this and with the tuned model's template."""
        self.template, self.is_base_template = SIGNATURES + self.template, False
        self.tokenizer.chat_template, self._template = self.template, compile_template(self.template)

    def _control_tokens(self) -> set[str]:
        """Return the control tokens that the template writes."""
        return {token for token in self.tokenizer.get_added_vocab() if token in self.template} | {
            str(token) for token in self._special.values()
        }

    def __call__(self, row: Row) -> Rendered:
        return next(self.batch([row]))

    def batch(self, rows: Sequence[Row]) -> Iterator[Rendered]:
        """Yield the token ids and the loss mask of each row."""
        for ids, spans in self._tokenize([self._mark(row.text, row.chat(), row.tools) for row in rows]):
            mask = [0] * len(ids)
            for first, end in spans:
                mask[first:end] = [1] * (end - first)
            yield Rendered(list(ids), mask)

    def measure(self, lines: Sequence[bytes]) -> list[RowMeasure]:
        """Return the measures of each row, given as JSON."""
        return [
            (len(ids), sum(end - first for first, end in spans), refusal)
            for ids, spans, refusal in self.tokenize_lines(lines)
        ]

    def tokenize_lines(self, lines: Sequence[bytes]) -> Iterator[tuple[Sequence[int], Spans, str]]:
        """Yield (ids, spans in the loss, why the template refuses the row or an empty string) of rows given as JSON."""
        import orjson

        rendered = [self._try_mark(orjson.loads(line)) for line in lines]
        for tokenized, (_, refusal) in zip(self._tokenize([marked for marked, _ in rendered]), rendered, strict=True):
            yield *tokenized, refusal

    def _try_mark(self, row: dict[str, Any]) -> tuple[str, str]:
        """Return (marked text, why the template refuses the row or an empty string)."""
        from jinja2.exceptions import TemplateError

        try:
            return self._mark(row.get("text"), row["messages"], row["tools"]), ""
        except (TemplateError, TypeError, ValueError) as error:
            return "", str(error) or type(error).__name__

    def tools(self, row: Row) -> list[dict[str, Any]] | None:
        """Return the schemas of the tools a row shows, as the template takes them, or None if it shows none."""
        return self._schemas(row.tools)

    def _schemas(self, names: list[str]) -> list[dict[str, Any]] | None:
        if not self.catalogue or not names:
            return None
        key = tuple(names)
        if len(key) < 2 or key == self.catalogue.names:  # other selections hardly repeat
            if key not in self._schema_cache:
                self._schema_cache[key] = self.catalogue.openai(names)
            return self._schema_cache[key]
        return self.catalogue.openai(names)

    def text(self, row: Row) -> tuple[str, Spans]:
        """Return a row's text as the model reads it, and the spans of it that are in the loss, in characters."""
        return strip_marks(self._mark(row.text, row.chat(), row.tools))

    def _mark(self, text: str | None, messages: list[dict[str, Any]], tools: list[str]) -> str:
        """Return the rendered text with `LOSS_BEGIN` and `LOSS_END` around each part that is in the loss."""
        if text is not None and not messages:
            return f"{self.tokenizer.bos_token or ''}{LOSS_BEGIN}{text}{self.tokenizer.eos_token or ''}{LOSS_END}"
        marked: str = self._template.render(
            messages=messages,
            tools=self._schemas(tools),
            documents=None,
            add_generation_prompt=False,
            **self._special,
        )
        return marked

    def _tokenize(self, texts: Sequence[str]) -> Iterator[TokenizedText]:
        """Yield marked texts tokenized. Those the word cache cannot tokenize are encoded as a whole, on all cores."""
        cache = self._word_cache
        cached = [cache.tokenize(text) if cache is not None else None for text in texts]
        uncached = [strip_marks(text) for text, tokenized in zip(texts, cached, strict=True) if tokenized is None]
        encoded = self.tokenizer.backend_tokenizer.encode_batch(
            [text for text, _ in uncached], add_special_tokens=False
        )
        encodings = iter(zip(encoded, [spans for _, spans in uncached], strict=True))
        for tokenized in cached:
            if tokenized is None:
                encoding, spans = next(encodings)
                tokenized = encoding.ids, list(token_spans(encoding, spans))
            yield tokenized


def strip_marks(marked: str) -> tuple[str, Spans]:
    """Return the text without its marks, and the spans between them, in characters."""
    pieces, spans, length, begin = _MARKS.split(marked), [], 0, 0
    for piece, mark in zip(pieces, _MARKS.findall(marked) + [""], strict=True):
        length += len(piece)
        if mark == LOSS_BEGIN:
            begin = length
        elif mark == LOSS_END:
            spans.append((begin, length))
    return "".join(pieces), spans


def token_spans(encoding: Any, spans: Spans) -> Iterator[tuple[int, int]]:
    """Yield each span of characters as (first, end) in tokens.

    Characters without a token are skipped: byte-level tokenizers leave spaces at a token's edge out of its offsets.
    """
    for begin, end in spans:
        first = next((t for at in range(begin, end) if (t := encoding.char_to_token(at)) is not None), None)
        last = next((t for at in range(end - 1, begin - 1, -1) if (t := encoding.char_to_token(at)) is not None), None)
        if first is not None and last is not None:
            yield first, last + 1
