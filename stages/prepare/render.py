"""From messages to token ids and the mask of learned tokens, by the base's own chat template.

Training, evaluation and serving use one template, the one that lies beside the base's tokenizer. Assistant turns
stand inside `{% generation %}`; only what is inside is learned. A row of plain text is learned whole.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from configs.catalogue import Catalogue
from stages.errors import BadRecipe
from stages.prepare.rows import Row

BEGIN, END = "\ufdd0", "\ufdd1"
"""Around what is learned, in a rendered text; both are no characters (Unicode, 23.7) and stand in no text."""
_MARKS = re.compile(f"[{BEGIN}{END}]")


@dataclass(frozen=True)
class Rendered:
    """Token ids of a row and, for each, 1 if it is learned."""

    ids: list[int]
    mask: list[int]


class Renderer:
    """Renders rows with one base's tokenizer and chat template."""

    def __init__(self, base: Path, catalogue: Catalogue | None) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(base, local_files_only=True)
        self.catalogue = catalogue
        template = self.tokenizer.chat_template or ""
        if "{% generation %}" not in _without_dashes(template):
            raise BadRecipe(
                f"{base}: its chat template marks no assistant turn with {{% generation %}}: nothing could be learned; "
                "put one that does in chat_template.jinja beside its tokenizer"
            )
        self._template = _compiled(template)
        self._threads = ThreadPoolExecutor(1)
        self._shown: dict[tuple[str, ...], list[dict[str, Any]]] = {}

    def __call__(self, row: Row) -> Rendered:
        return next(self.batch([row]))

    def batch(self, rows: Sequence[Row]) -> Iterator[Rendered]:
        """Rows as ids and masks; many at a time are tokenized on all cores."""
        rendered = [self.text(row) for row in rows]
        encodings = self._encode([text for text, _ in rendered])
        for encoding, (_, spans) in zip(encodings, rendered, strict=True):
            mask = [0] * len(encoding)
            for first, last in _tokens(encoding, spans):
                mask[first : last + 1] = [1] * (last + 1 - first)
            yield Rendered(encoding.ids, mask)

    def measure(self, rows: Sequence[Row]) -> Callable[[], list[tuple[int, int]]]:
        """What gives (tokens, learned tokens) of each row; they are tokenized meanwhile, on another thread."""
        rendered = [self.text(row) for row in rows]
        job = self._threads.submit(self._encode, [text for text, _ in rendered])

        def measured() -> list[tuple[int, int]]:
            return [
                (len(encoding), sum(last + 1 - first for first, last in _tokens(encoding, spans)))
                for encoding, (_, spans) in zip(job.result(), rendered, strict=True)
            ]

        return measured

    def tools(self, row: Row) -> list[dict[str, Any]] | None:
        """The schemas a row shows, as the template takes them."""
        if not self.catalogue or not row.tools:
            return None
        key = tuple(row.tools)
        if len(key) < 2 or key == self.catalogue.names:  # others hardly come twice
            if key not in self._shown:
                self._shown[key] = self.catalogue.openai(row.tools)
            return self._shown[key]
        return self.catalogue.openai(row.tools)

    def text(self, row: Row) -> tuple[str, list[tuple[int, int]]]:
        """A row as the model is shown it, and the parts of it that are learned, in characters."""
        if row.text is not None and not row.messages:
            bos, eos = self.tokenizer.bos_token or "", self.tokenizer.eos_token or ""
            return f"{bos}{row.text}{eos}", [(len(bos), len(bos) + len(row.text) + len(eos))]
        marked = self._template.render(
            messages=row.chat(),
            tools=self.tools(row),
            documents=None,
            add_generation_prompt=False,
            **self.tokenizer.special_tokens_map,
        )
        return _unmarked(marked)

    def _encode(self, texts: list[str]) -> list[Any]:
        encodings: list[Any] = self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        return encodings


def _unmarked(marked: str) -> tuple[str, list[tuple[int, int]]]:
    pieces, spans, length, begin = _MARKS.split(marked), [], 0, 0
    for piece, mark in zip(pieces, _MARKS.findall(marked) + [""], strict=True):
        length += len(piece)
        if mark == BEGIN:
            begin = length
        elif mark == END:
            spans.append((begin, length))
    return "".join(pieces), spans


def _tokens(encoding: Any, spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(first, last) token of each span. Byte-level tokenizers leave spaces at a token's edge out of its offsets."""
    for begin, end in spans:
        first = next((t for at in range(begin, end) if (t := encoding.char_to_token(at)) is not None), None)
        last = next((t for at in range(end - 1, begin - 1, -1) if (t := encoding.char_to_token(at)) is not None), None)
        if first is not None and last is not None:
            yield first, last


def _compiled(template: str) -> Any:
    """The template as transformers compiles it, with marks around what is learned instead of its positions.

    Source: transformers.utils.chat_template_utils; a test holds the two renderings equal.
    """
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

        def _marked(self, caller: Any) -> str:
            return f"{BEGIN}{caller()}{END}"

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **how)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    return environment.from_string(template)


def _without_dashes(template: str) -> str:
    return template.replace("{%-", "{%").replace("-%}", "%}")
