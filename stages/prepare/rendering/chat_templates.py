"""Compiles chat templates as transformers does, with marks around the text in the loss, and renders conversations."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT

TEMPLATES_FOLDER = ROOT / "configs" / "templates"
LOSS_BEGIN, LOSS_END = "\ufdd0", "\ufdd1"
"""Mark the text in the loss in a rendered text. Both are noncharacters (Unicode, 23.7), which no text contains."""
Chat = list[dict[str, Any]]
Tools = list[dict[str, Any]] | None
Spans = list[tuple[int, int]]
"""(first, end) of each part that is in the loss."""
_MARKS = re.compile(f"[{LOSS_BEGIN}{LOSS_END}]")


class ChatTemplate:
    """A compiled chat template with one tokenizer's special tokens."""

    def __init__(self, text: str, special: Mapping[str, Any]) -> None:
        self.text, self._special = text, special
        try:
            self._compiled = compile_template(text)
        except Exception as error:  # of Jinja, or of Python, which compiles what Jinja makes of it
            line = getattr(error, "lineno", None)
            place = f"line {line}: " if line else ""
            raise BadRecipe(f"chat template: {place}{type(error).__name__}: {str(error)[:300]}") from None

    def mark(self, messages: Chat, tools: Tools, *, prompt: bool = False) -> str:
        """Return the rendered text, with marks around what is inside `{% generation %}`.

        With `prompt` it ends where the assistant's next turn begins, as in a request to a served model.

        Raises:
            TemplateError: The template refuses the conversation, fails, or goes beyond the limits.
        """
        from jinja2.exceptions import TemplateError

        self._compiled.environment.begin()
        try:
            marked: str = self._compiled.render(
                messages=messages, tools=tools, documents=None, add_generation_prompt=prompt, **self._special
            )
        except TemplateError:
            raise
        except Exception as error:  # whatever a template can do with values
            raise TemplateError(f"{type(error).__name__}: {str(error)[:300]}") from None
        return marked

    def render(self, messages: Chat, tools: Tools, *, prompt: bool = False) -> str:
        """Return the rendered text without marks."""
        marked = self.mark(messages, tools, prompt=prompt)
        return marked.replace(LOSS_BEGIN, "").replace(LOSS_END, "")


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


def add_marks(text: str, spans: Spans) -> str:
    """Return the text with marks around the spans, which are in order; the inverse of `strip_marks`."""
    pieces, last = [], 0
    for begin, end in spans:
        pieces += [text[last:begin], LOSS_BEGIN, text[begin:end], LOSS_END]
        last = end
    return "".join([*pieces, text[last:]])


def compile_template(template: str) -> Any:
    """Return the template compiled as transformers does it, except that it writes marks around the text in the loss.

    Source: transformers.utils.chat_template_utils. A test checks that both render equally.
    """
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols

    from tuneline.stages.prepare.rendering.template_limits import LimitedEnvironment, limit_filter

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            begin, end = (nodes.Output([nodes.TemplateData(mark)]) for mark in (LOSS_BEGIN, LOSS_END))
            return nodes.Scope([begin, *body, end]).set_lineno(line)

    class Environment(LimitedEnvironment):
        def getattr(self, obj: Any, attribute: str) -> Any:
            """As in jinja, but faster: a message's key is not looked up among the attributes of dict first."""
            if type(obj) is not dict or attribute in dict_attributes:
                return super().getattr(obj, attribute)
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    dict_attributes = frozenset(dir(dict))
    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = limit_filter("tojson", tojson)
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    compiled = environment.from_string(template)
    compiled.globals = dict(compiled.globals)  # every rendering copies them, which is slow for a ChainMap
    return compiled
