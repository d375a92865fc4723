"""The chat template a base is trained and served with: its own, if that marks what is learned; else one of ours.

Ours are `configs/templates/*.jinja`. One is taken only if it writes the same text as the base's own for conversations
of every shape that is learned from; which one is thus found by what it writes, not by the base's name.
"""

import json
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT

FOLDER = ROOT / "configs" / "templates"
BEGIN, END = "\ufdd0", "\ufdd1"
"""Around what is learned, in a rendered text; both are no characters (Unicode, 23.7) and stand in no text."""

_ID = "call00001"
"""What our templates call the first call, where the base's own refuses one without an id."""
_CALLED = {"id": _ID, "type": "function", "function": {"name": "a__b", "arguments": {"c": 1}}}
_CALL = {"role": "assistant", "tool_calls": [_CALLED]}
_TOOL = {
    "type": "function",
    "function": {"name": "a__b", "description": "d", "parameters": {"type": "object", "properties": {"c": {}}}},
}
_SYSTEM, _ASKED = {"role": "system", "content": " Be brief. "}, {"role": "user", "content": " è ok?\n"}
_AGAIN = {"role": "user", "content": " and more? "}
_RESULT = {"role": "tool", "tool_call_id": _ID, "content": '{"e": "ù"}'}
_SAID = {"role": "assistant", "content": "Sì."}
_SHAPES: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]] | None], ...] = (
    ([_ASKED, _SAID], None),
    ([_SYSTEM, _ASKED, _SAID, _AGAIN], None),
    ([_ASKED, _CALL], [_TOOL]),
    ([_ASKED, _CALL, _RESULT, _SAID], [_TOOL, _TOOL]),
    ([_SYSTEM, _ASKED, _CALL, _RESULT, _SAID, _AGAIN], [_TOOL, _TOOL]),
)
"""Conversations that a template of ours must write as the base's own does.

Those with a system message end in a question: in an answered one Mistral's own drops it, so none could be learned with.
"""


def template_for(base: Path, own: str | None, vocabulary: Collection[str]) -> str:
    """The text of the template for a base with the template `own`; `vocabulary` tells where it has none.

    Raises:
        BadRecipe: its own marks nothing, and none of ours writes the same text.
    """
    if own and "{% generation %}" in own.replace("{%-", "{%").replace("-%}", "%}"):
        return own
    for file in sorted(FOLDER.glob("*.jinja")):
        text = file.read_text(encoding="utf-8")
        if _same(own, text) if own else _headers(text) in vocabulary:
            return text
    raise BadRecipe(
        f"{base}: its chat template marks no assistant turn with {{% generation %}}, and none of {FOLDER} writes the "
        "same text: nothing could be learned; put one that does in chat_template.jinja beside its tokenizer"
        if own
        else f"{base}: it has no chat template; put one in chat_template.jinja beside its tokenizer"
    )


def compiled(template: str) -> Any:
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
            begin, end = (nodes.Output([nodes.TemplateData(mark)]) for mark in (BEGIN, END))
            return nodes.Scope([begin, *body, end]).set_lineno(line)

    class Environment(ImmutableSandboxedEnvironment):
        def getattr(self, obj: Any, attribute: str) -> Any:
            """As ever, but a message's key is no longer looked for among the attributes of a dict first."""
            if type(obj) is not dict or attribute in of_dicts:
                return super().getattr(obj, attribute)
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **how)

    of_dicts = frozenset(dir(dict))
    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    made = environment.from_string(template)
    made.globals = dict(made.globals)  # a chain of them is copied slowly, once a rendering
    return made


def _same(theirs: str, ours: str) -> bool:
    from jinja2.exceptions import TemplateError

    try:
        own, other = compiled(theirs), compiled(ours)
        return all(_written(own, *shape) == _written(other, *shape) for shape in _SHAPES)
    except (TemplateError, TypeError, ValueError, AttributeError):  # theirs knows no tools, or no system message
        return False


def _written(template: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
    text: str = template.render(
        messages=messages, tools=tools, documents=None, bos_token="<s>", eos_token="</s>", add_generation_prompt=True
    )
    return text.replace(BEGIN, "").replace(END, "")


def _headers(template: str) -> str:
    """The control token that begins a turn: what tells the families apart where a base has no template."""
    return next(token for token in ("<|header_start|>", "<|start_header_id|>", "[INST]") if token in template)
