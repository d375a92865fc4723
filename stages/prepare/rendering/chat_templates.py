"""Chooses and compiles the chat template a base is trained and served with.

That is the base's own if it marks the assistant's tokens with `{% generation %}`, else one of `configs/templates`. One
of these is used only if it writes the same text as the base's own for every shape of conversation that is trained on.
So the choice depends on what a template writes, not on the base's name.
"""

import json
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT

TEMPLATES_FOLDER = ROOT / "configs" / "templates"
LOSS_BEGIN, LOSS_END = "\ufdd0", "\ufdd1"
"""Mark the text in the loss in a rendered text. Both are noncharacters (Unicode, 23.7), which no text contains."""

_ID = "call00001"
"""The id our templates give the first call, for bases whose own template requires one."""
_TOOL_CALL = {"id": _ID, "type": "function", "function": {"name": "a__b", "arguments": {"c": 1}}}
_CALL = {"role": "assistant", "tool_calls": [_TOOL_CALL]}
_TOOL = {
    "type": "function",
    "function": {"name": "a__b", "description": "d", "parameters": {"type": "object", "properties": {"c": {}}}},
}
_SYSTEM, _QUESTION = {"role": "system", "content": " Be brief. "}, {"role": "user", "content": " è ok?\n"}
_FOLLOW_UP = {"role": "user", "content": " and more? "}
_RESULT = {"role": "tool", "tool_call_id": _ID, "content": '{"e": "ù"}'}
_ANSWER = {"role": "assistant", "content": "Sì."}
_SHAPES: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]] | None], ...] = (
    ([_QUESTION, _ANSWER], None),
    ([_SYSTEM, _QUESTION, _ANSWER, _FOLLOW_UP], None),
    ([_QUESTION, _CALL], [_TOOL]),
    ([_QUESTION, _CALL, _RESULT, _ANSWER], [_TOOL, _TOOL]),
    ([_SYSTEM, _QUESTION, _CALL, _RESULT, _ANSWER, _FOLLOW_UP], [_TOOL, _TOOL]),
)
"""Conversations, each with its tools, that a template of ours must write as the base's own does.

Those with a system message end in a question. From one that ends in an answer, Mistral's own template drops the system
message, and no template of ours would be equal to it.
"""


def choose_template(base: Path, base_template: str | None, vocabulary: Collection[str]) -> str:
    """Return the template for a base that comes with `base_template`. Without one, its vocabulary decides which fits.

    Raises:
        BadRecipe: The base's template has no `{% generation %}`, and none of ours writes the same text.
    """
    if base_template and "{% generation %}" in base_template.replace("{%-", "{%").replace("-%}", "%}"):
        return base_template
    for file in sorted(TEMPLATES_FOLDER.glob("*.jinja")):
        text = file.read_text(encoding="utf-8")
        if _write_same(base_template, text) if base_template else _header_token(text) in vocabulary:
            return text
    raise BadRecipe(
        f"{base}: its chat template marks no assistant turn with {{% generation %}}, and none of {TEMPLATES_FOLDER} "
        "writes the same text: nothing could be learned; put one that does in chat_template.jinja beside its tokenizer"
        if base_template
        else f"{base}: it has no chat template; put one in chat_template.jinja beside its tokenizer"
    )


def compile_template(template: str) -> Any:
    """Return the template compiled as transformers does it, except that it writes marks around the text in the loss.

    Source: transformers.utils.chat_template_utils. A test checks that both render equally.
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
            begin, end = (nodes.Output([nodes.TemplateData(mark)]) for mark in (LOSS_BEGIN, LOSS_END))
            return nodes.Scope([begin, *body, end]).set_lineno(line)

    class Environment(ImmutableSandboxedEnvironment):
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
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    compiled = environment.from_string(template)
    compiled.globals = dict(compiled.globals)  # every rendering copies them, which is slow for a ChainMap
    return compiled


def _write_same(base_template: str, our_template: str) -> bool:
    from jinja2.exceptions import TemplateError

    try:
        base, ours = compile_template(base_template), compile_template(our_template)
        return all(_render(base, *shape) == _render(ours, *shape) for shape in _SHAPES)
    except (TemplateError, TypeError, ValueError, AttributeError):  # the base's takes no tools, or no system message
        return False


def _render(template: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
    text: str = template.render(
        messages=messages, tools=tools, documents=None, bos_token="<s>", eos_token="</s>", add_generation_prompt=True
    )
    return text.replace(LOSS_BEGIN, "").replace(LOSS_END, "")


def _header_token(template: str) -> str:
    """Return the control token that begins a turn, which identifies the model family of a base without a template."""
    return next(token for token in ("<|header_start|>", "<|start_header_id|>", "[INST]") if token in template)
