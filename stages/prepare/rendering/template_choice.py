"""Chooses the chat template a base is trained and served with.

That is the one the recipe names, else the base's own, else for a base without one the first of ours whose control
tokens it has. One of `configs/templates` replaces the base's own where it writes the same text for every shape of
conversation that is trained on: ours also write what theirs refuses, such as several calls at once. So the choice
depends on what a template writes, not on the base's name.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import HERMES, TEMPLATE_ALIASES
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import resolve
from tuneline.stages.prepare.rendering.chat_templates import TEMPLATES_FOLDER, Chat, ChatTemplate

FRAMES_WITHOUT_TOOLS = ("chatml", "zephyr", "llama-2")
"""Templates of ours that write no tools by themselves: those of Hermes are added to them."""
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
BY_VOCABULARY = ("llama-4", "llama-3.1", "mistral", "chatml", "llama-2")
"""Templates for a base without one: the first whose control tokens are in its vocabulary. The last needs none."""

WITH_TOOLS = ("llama-3.1", "llama-3.2", "llama-4", "mistral")
"""Templates of ours that may replace a base's own."""
_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
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
_SHAPES: tuple[tuple[Chat, list[dict[str, Any]] | None], ...] = (
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


def choose_template(
    base: Path,
    base_template: str | dict[str, str] | None,
    tokenizer: Any,
    name: str | Path = "",
) -> str:
    """Return the template for a base that comes with `base_template`; `name` is the recipe's `template`.

    Raises:
        BadRecipe: The base lacks tokens of the named template.
    """
    own = combine_templates(base_template) if isinstance(base_template, dict) else base_template
    if isinstance(name, Path):
        return resolve(name).read_text("utf-8")
    if name == HERMES:
        return add_hermes_tools(own) if own else _read_by_vocabulary(tokenizer)
    if name:
        name = TEMPLATE_ALIASES.get(name, name)
        _refuse_missing_tokens(base, name, tokenizer.get_vocab())
        return _read(name, tokenizer)
    if not own:
        return _read_by_vocabulary(tokenizer)
    return own if MARKED.search(own) else _find_equal(own) or own


def combine_templates(named: Mapping[str, str]) -> str:
    """Return one template that is `tool_use` for conversations with tools and `default` for others, as in transformers.

    Raises:
        BadRecipe: There is no `default`.
    """
    if "default" not in named:
        raise BadRecipe(f"its chat templates are {', '.join(named)}, none is `default`; write `template: FILE.jinja`")
    if named.get("tool_use", named["default"]) == named["default"]:
        return named["default"]
    tool_use, default = (named[key].removesuffix("\n") for key in ("tool_use", "default"))
    # The empty outputs keep jinja from trimming the templates' own spaces and newlines beside a block.
    empty = "{{ '' }}"
    return f"{{% if tools %}}{empty}{tool_use}{empty}{{% else %}}{empty}{default}{empty}{{% endif %}}"


def add_hermes_tools(template: str) -> str:
    """Return the template with tools, calls and results written as Hermes models do, inside its own turns."""
    where = "" if _writes_system(template) else "{%- set tools_in_user_message = true %}"
    return where + (TEMPLATES_FOLDER / f"{HERMES}.jinja").read_text("utf-8").rstrip("\n") + template


def _writes_system(template: str) -> bool:
    from jinja2.exceptions import TemplateError

    try:
        text = ChatTemplate(template, _SPECIAL).render([_SYSTEM, _QUESTION, _ANSWER], None)
    except (TemplateError, TypeError, ValueError, AttributeError):
        return False
    return "Be brief." in text


def _read(name: str, tokenizer: Any) -> str:
    """Return a template of ours, with what this tokenizer's texts begin with."""
    text = (TEMPLATES_FOLDER / f"{name}.jinja").read_text("utf-8")
    if name not in FRAMES_WITHOUT_TOOLS:
        return text
    adds_bos = tokenizer.bos_token and tokenizer("x").input_ids[:1] == [tokenizer.bos_token_id]
    begin = "{{- bos_token }}" if adds_bos and name != "llama-2" else ""
    return add_hermes_tools(begin + text)


def _read_by_vocabulary(tokenizer: Any) -> str:
    vocabulary = tokenizer.get_vocab()
    return _read(next(name for name in BY_VOCABULARY if not _missing_tokens(name, vocabulary)), tokenizer)


def _missing_tokens(name: str, vocabulary: Collection[str]) -> list[str]:
    """Return the control tokens of a template's turns that a vocabulary lacks."""
    return [token for token in TURN_TOKENS.get(name, ()) if token not in vocabulary]


TURN_TOKENS = {
    "llama-4": ("<|header_start|>", "<|header_end|>", "<|eot|>"),
    "llama-3.1": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "llama-3.2": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "tiny": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": ("[INST]", "[/INST]", "[TOOL_CALLS]"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
}
"""The control tokens with which a template writes turns. `zephyr` and `llama-2` write text, and end with EOS."""


def _refuse_missing_tokens(base: Path, name: str, vocabulary: Collection[str]) -> None:
    if missing := _missing_tokens(name, vocabulary):
        fitting = [file.stem for file in sorted(TEMPLATES_FOLDER.glob("*.jinja"))]
        fitting = [other for other in fitting if not _missing_tokens(other, vocabulary)]
        raise BadRecipe(
            f"{base}: template: {name}: {', '.join(missing)}: not in its vocabulary; templates that fit this "
            f"base: {', '.join(fitting)}"
        )


def _find_equal(own: str) -> str | None:
    """Return the template of ours that writes the same text as a base's own, or None."""
    for name in WITH_TOOLS:
        text = (TEMPLATES_FOLDER / f"{name}.jinja").read_text("utf-8")
        if _write_same(own, text):
            return text
    return None


def _write_same(base_template: str, our_template: str) -> bool:
    from jinja2.exceptions import TemplateError

    try:
        base, ours = ChatTemplate(base_template, _SPECIAL), ChatTemplate(our_template, _SPECIAL)
        return all(base.render(*shape, prompt=True) == ours.render(*shape, prompt=True) for shape in _SHAPES)
    except (TemplateError, TypeError, ValueError, AttributeError):  # the base's takes no tools, or no system message
        return False
