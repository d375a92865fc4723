"""Renders rows with the base's chat template and tokenizes them into token ids and a loss mask.

Training, evaluation and serving use the same template (see `template_choice.py`). The loss covers the assistant's
turns, as `assistant_turns.py` finds them, without those of weight 0. It covers all of a row of plain text.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tuneline.configs.catalogue import Catalogue, wire_name
from tuneline.core.errors import BadRecipe
from tuneline.core.exact_json import parse_exact
from tuneline.stages.checkpoints.base_tokenizer import load_tokenizer
from tuneline.stages.prepare.checks.text_checks import CONTROL_TOKEN
from tuneline.stages.prepare.rendering.assistant_turns import AssistantTurns, SeveralRenderings
from tuneline.stages.prepare.rendering.chat_templates import (
    LOSS_BEGIN,
    LOSS_END,
    Chat,
    ChatTemplate,
    Spans,
    strip_marks,
)
from tuneline.stages.prepare.rendering.lost_content import Lost, find_lost, find_lost_thinking, is_plainly_whole
from tuneline.stages.prepare.rendering.stop_tokens import control_tokens
from tuneline.stages.prepare.rendering.template_choice import choose_template
from tuneline.stages.prepare.rendering.word_cache import TokenizedText, WordCache
from tuneline.stages.prepare.rows import Row, number_calls

SIGNATURES = "{%- set signatures = true %}"
"""Put before a template of ours, it writes each tool as one line."""
Fault = Literal["not_rendered", "several_renderings", "lost_in_template", "nothing_learned", "thinking_not_written"]


class RowMeasure(NamedTuple):
    """What a row is in tokens, and what is wrong with its rendering."""

    tokens: int
    loss_tokens: int
    fault: Fault | None = None
    reason: Lost = Lost("")
    """What the fault is."""


@dataclass(frozen=True)
class Rendered:
    """Token ids of a row and its loss mask: 1 for each token in the loss, else 0."""

    ids: list[int]
    mask: list[int]


class _Marked(NamedTuple):
    text: str
    """With marks around each part in the loss."""
    fault: Fault | None = None
    reason: Lost = Lost("")


class Renderer:
    """Renders rows with one base's tokenizer and chat template."""

    def __init__(
        self, base: Path, catalogue: Catalogue | None, template: Path | None = None, *, name: str | Path = ""
    ) -> None:
        """`template` is the file in which `prepare` wrote the tuned model's template; the base's is used without it.

        `name` is the recipe's `template`, for the choice of one.

        Raises:
            BadRecipe: The template cannot be learned with.
        """
        self.tokenizer: Any = load_tokenizer(base)
        self.catalogue = catalogue
        base_template = self.tokenizer.chat_template
        if template and template.exists():
            self.template = template.read_text("utf-8")
        else:
            self.template = choose_template(base, base_template, self.tokenizer, name)
        """The template of the base and of the tuned model."""
        self.is_base_template = self.template == base_template
        self._special = self.tokenizer.special_tokens_map
        try:
            self._set_template()
        except BadRecipe as error:
            raise BadRecipe(f"{base}: {error}") from None
        self._separators = ("\n", *sorted(self._control_tokens()))
        self._word_cache = WordCache.for_tokenizer(self.tokenizer.backend_tokenizer, self._control_tokens())
        self._schema_cache: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        self._joins_pieces = self._encode("x\nx") == self._encode("x\n") + self._encode("x")
        """Whether the ids of a text are those of its parts, cut where no token is."""

    def _set_template(self) -> None:
        self.tokenizer.chat_template = self.template
        self._template = ChatTemplate(self.template, self._special)
        self._turns = AssistantTurns(self._template, control_tokens(self.tokenizer))
        self._needs_content = self._refuses_missing_content()

    def show_signatures(self) -> None:
        """Write each tool as one line from now on, with this and with the tuned model's template.

        A template that is none of ours writes its schema all the same.
        """
        self.template, self.is_base_template = SIGNATURES + self.template, False
        self._set_template()

    def _control_tokens(self) -> set[str]:
        """Return the control tokens that the template writes."""
        return {token for token in self.tokenizer.get_added_vocab() if token in self.template} | {
            str(token) for token in self._special.values()
        }

    def foreign_control_tokens(self) -> tuple[str, ...]:
        """Return the texts that the tokenizer makes control tokens of and that have another form than Llama's."""
        added = self.tokenizer.added_tokens_decoder.values()
        texts = (token.content for token in added if token.special)
        return tuple(text for text in texts if not CONTROL_TOKEN.fullmatch(text))

    def _refuses_missing_content(self) -> bool:
        """Return whether the template writes calls only beside a content, be it empty."""
        from jinja2.exceptions import TemplateError

        call = {"id": "call00001", "type": "function", "function": {"name": "a__b", "arguments": {"c": 1}}}
        question: Chat = [{"role": "user", "content": "x"}]
        result = {"role": "tool", "tool_call_id": "call00001", "content": "y"}
        answer = {"role": "assistant", "content": "z"}
        chat = [*question, {"role": "assistant", "tool_calls": [call]}, result, answer]
        try:
            self._template.render(chat, None)
        except (TemplateError, TypeError, ValueError, AttributeError):
            return True
        return False

    def __call__(self, row: Row) -> Rendered:
        return next(self.batch([row]))

    def batch(self, rows: Sequence[Row]) -> Iterator[Rendered]:
        """Yield the token ids and the loss mask of each row.

        Raises:
            SeveralRenderings: A row's turns are not parts of one rendering; `prepare` makes several rows of it.
        """
        for ids, spans in self._tokenize([self._mark_row(row) for row in rows]):
            mask = [0] * len(ids)
            for first, end in spans:
                mask[first:end] = [1] * (end - first)
            yield Rendered(list(ids), mask)

    def measure(self, lines: Sequence[bytes]) -> list[RowMeasure]:
        """Return the measures of each row, given as JSON."""
        return [
            RowMeasure(len(ids), sum(end - first for first, end in spans), fault, reason)
            for ids, spans, fault, reason in self.tokenize_lines(lines)
        ]

    def tokenize_lines(self, lines: Sequence[bytes]) -> Iterator[tuple[Sequence[int], Spans, Fault | None, Lost]]:
        """Yield (ids, spans in the loss, fault, what it is) of rows given as JSON."""
        rendered = [self._try_mark(parse_exact(line)) for line in lines]
        for (ids, spans), marked in zip(self._tokenize([m.text for m in rendered]), rendered, strict=True):
            yield ids, spans, marked.fault, marked.reason

    def _try_mark(self, row: dict[str, Any]) -> _Marked:
        """Return the marked text of a row, or what is wrong with it."""
        from jinja2.exceptions import TemplateError

        try:
            if row.get("text") is not None and not row["messages"]:
                return _Marked(self._mark_text(row["text"]))
            messages = self._fill(number_calls(row["messages"]))
            marked = self._turns.mark(messages, self._schemas(row["tools"]))
        except SeveralRenderings as error:
            return _Marked("", "several_renderings", Lost(str(error)))
        except (TemplateError, TypeError, ValueError, AttributeError) as error:
            return _Marked("", "not_rendered", Lost(str(error) or type(error).__name__))
        return self._check(marked, messages, row["tools"])

    def _check(self, marked: str, messages: Chat, tools: Sequence[str | dict[str, Any]]) -> _Marked:
        if not tools and is_plainly_whole(marked, messages):
            return _Marked(marked)
        text, spans = strip_marks(marked)
        names = [wire_name(tool) if isinstance(tool, str) else tool["function"]["name"] for tool in tools]
        if lost := find_lost(text, spans, messages, names):
            return _Marked("", "lost_in_template", lost)
        if any(not self._turns.strip_end(text[begin:end]) for begin, end in spans):
            return _Marked("", "nothing_learned", Lost("only the end of a turn is in the loss"))
        thinking = find_lost_thinking(text, spans, messages)
        return _Marked(marked, "thinking_not_written", thinking) if thinking else _Marked(marked)

    def tools(self, row: Row) -> list[dict[str, Any]] | None:
        """Return the schemas of the tools a row shows, as the template takes them, or None if it shows none."""
        return self._schemas(row.tools)

    def _schemas(self, tools: list[str | dict[str, Any]]) -> list[dict[str, Any]] | None:
        if not self.catalogue or not tools:
            return None
        if len(tools) == 1 or len(tools) == len(self.catalogue.names):  # other selections hardly repeat
            key = tuple(tool for tool in tools if isinstance(tool, str))
            if len(key) == len(tools):
                if key not in self._schema_cache:
                    self._schema_cache[key] = self.catalogue.openai(key)
                return self._schema_cache[key]
        return self.catalogue.openai(tools)

    def text(self, row: Row) -> tuple[str, Spans]:
        """Return a row's text as the model reads it, and the spans of it that are in the loss, in characters."""
        return strip_marks(self._mark_row(row))

    def _mark_row(self, row: Row) -> str:
        """Return the rendered text with `LOSS_BEGIN` and `LOSS_END` around each part that is in the loss."""
        if row.text is not None and not row.messages:
            return self._mark_text(row.text)
        messages, tools = self._fill(row.chat()), self._schemas(row.tools)
        try:
            return self._turns.mark(messages, tools)
        except SeveralRenderings:
            return self._turns.mark_quickly(messages, tools)

    def _mark_text(self, text: str) -> str:
        return f"{self.tokenizer.bos_token or ''}{LOSS_BEGIN}{text}{self.tokenizer.eos_token or ''}{LOSS_END}"

    def _fill(self, messages: Chat) -> Chat:
        """Return the messages with an empty content beside calls, if the template needs it; changes them in place."""
        if self._needs_content:
            for message in messages:
                message.setdefault("content", "")
        return messages

    def _tokenize(self, texts: Sequence[str]) -> Iterator[TokenizedText]:
        """Yield marked texts tokenized. Those the word cache cannot tokenize are encoded as a whole, on all cores."""
        cache = self._word_cache
        cached = [cache.tokenize(text) if cache is not None else None for text in texts]
        uncached = [strip_marks(text) for text, tokenized in zip(texts, cached, strict=True) if tokenized is None]
        encoded = self.tokenizer.backend_tokenizer.encode_batch(
            [text for text, _ in uncached], add_special_tokens=False
        )
        encodings = iter(zip(encoded, uncached, strict=True))
        for tokenized in cached:
            if tokenized is None:
                encoding, (text, spans) = next(encodings)
                if self._joins_pieces and not all(self._begins_with_token(text, begin, encoding) for begin, _ in spans):
                    tokenized = self._encode_pieces(text, spans)
                else:
                    tokenized = encoding.ids, list(token_spans(encoding, spans))
            yield tokenized

    def _begins_with_token(self, text: str, begin: int, encoding: Any) -> bool:
        """Return whether the ids of the text before `begin`, as a prompt has them, are the first ids of the whole."""
        follows = text[begin : begin + 1]
        if not follows.isspace() and follows != "/" and text.endswith(self._separators, 0, begin):
            return True  # nothing joins these to what follows
        prompt = self._encode(text[:begin])
        return bool(encoding.ids[: len(prompt)] == prompt)

    def _encode_pieces(self, text: str, spans: Spans) -> TokenizedText:
        """Return a text tokenized in pieces that begin with each span, as a prompt and its answer are in serving."""
        ids: list[int] = []
        token_spans, last = Spans(), 0
        for begin, end in spans:
            ids += self._encode(text[last:begin])
            answer = self._encode(text[begin:end])
            token_spans.append((len(ids), len(ids) + len(answer)))
            ids, last = ids + answer, end
        return array("I", ids + self._encode(text[last:])), token_spans

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def token_spans(encoding: Any, spans: Spans) -> Iterator[tuple[int, int]]:
    """Yield each span of characters as (first, end) in tokens.

    Characters without a token are skipped: byte-level tokenizers leave spaces at a token's edge out of its offsets.
    """
    for begin, end in spans:
        first = next((t for at in range(begin, end) if (t := encoding.char_to_token(at)) is not None), None)
        last = next((t for at in range(end - 1, begin - 1, -1) if (t := encoding.char_to_token(at)) is not None), None)
        if first is not None and last is not None:
            yield first, last + 1
