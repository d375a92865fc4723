"""The grammar of a tool catalogue in one language: the tools' own phrases, and sentence templates for each tool."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from tuneline.configs.catalogue import Catalogue, Tool
from tuneline.configs.yaml_loader import read_yaml
from tuneline.core.errors import BadData
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.synthesis.grammar import (
    Grammar,
    Handler,
    argument_kinds,
    check_patterns,
    make_handler,
)
from tuneline.stages.prepare.synthesis.patterns import parse_pattern
from tuneline.stages.prepare.synthesis.structured_values import describe_value

TEMPLATES = ROOT / "data" / "synthesis"
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class CatalogueLanguage:
    """The sentence templates of one language, and the grammar of a catalogue in it."""

    templates: dict[str, Any]
    """Content of the language's YAML file."""
    grammar: Grammar
    patterns: dict[str, list[str]]
    """For each tool the handlers of `grammar` that request it."""

    def summary(self, tool: Tool) -> str:
        """Return in a few words what a tool does."""
        name = self.grammar.language
        return tool.phrases[name].what if name in tool.phrases else _describe(tool)

    def label(self, slot: str) -> str:
        """Return the name of an argument."""
        return str(self.templates["labels"].get(slot, slot.replace("_", " ")))

    def list_arguments(self, arguments: dict[str, Any]) -> str:
        """Return the arguments as text, each with its name."""
        return ", ".join(f"{self.label(slot)} {describe_value(value)}" for slot, value in arguments.items())


def load_language(catalogue: Catalogue, name: str) -> CatalogueLanguage:
    """Return the templates and the grammar of a catalogue in the language with this code.

    Raises:
        BadData: a phrase of a tool does not parse, or names what is not its argument.
    """
    templates = _load_templates(name)
    values = {kind: parse_pattern(text, name) for kind, text in templates["values"].items()}
    handlers: dict[str, Handler] = {}
    patterns: dict[str, list[str]] = {}
    for tool_name, tool in catalogue.tools.items():
        phrases = tool.phrases.get(name)
        texts = [*(phrases.say if phrases else ()), *_fill_templates(tool, name, templates)]
        for number, text in enumerate(texts):
            slots = argument_kinds(tool_name, tool, values, templates["kinds"], _SLOT.findall(text))
            key = f"{tool_name} {number}"
            handlers[key] = make_handler(tool_name, tool, slots, (parse_pattern(text, tool_name),))
            patterns.setdefault(tool_name, []).append(key)
    check_patterns(f"phrases in {name!r}", values, handlers)
    grammar = Grammar(tuple(templates["openers"]), tuple(templates["closers"]), values, handlers, language=name)
    return CatalogueLanguage(templates, grammar, patterns)


@cache
def _load_templates(name: str) -> dict[str, Any]:
    templates: dict[str, Any] = read_yaml(TEMPLATES / f"{name}.yaml", BadData)
    return templates


def _fill_templates(tool: Tool, language: str, templates: dict[str, Any]) -> Iterator[str]:
    """Yield patterns that request a tool, with its required arguments, then with all of them."""
    what = _escape(tool.phrases[language].what if language in tool.phrases else _describe(tool))
    required, properties = tool.required, tuple(tool.properties)
    labels = templates["labels"]
    for slots in dict.fromkeys([required, properties]):
        arguments = ", ".join(f"{_escape(labels.get(slot, slot.replace('_', ' ')))} {{{slot}}}" for slot in slots)
        for template in templates["frames"] if slots else templates["want"]:
            yield template.replace("{what}", what).replace("{arguments}", arguments)


def _escape(text: str) -> str:
    """Return the text without the characters that have a meaning in patterns."""
    return re.sub(r"[()|<{}]", " ", text)


def _describe(tool: Tool) -> str:
    """Return the first sentence of a tool's description, as part of a sentence."""
    text = tool.description.split(".")[0].strip() or "use it"
    return text[0].lower() + text[1:]
