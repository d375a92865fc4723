"""What a model or an engine will trip over in a catalogue, found before anything is trained on it."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tuneline.configs.catalogue import Catalogue, Tool, wire_name
from tuneline.stages.prepare.checks.tool_schemas import VALUES, build_validator

ALIKE = 0.8
"""Cosine of two descriptions' character n-grams. In `configs/tools/handlers.yaml` the two most alike have 0.55."""
CHARACTERS_PER_TOKEN = 3.5
"""Of JSON in Llama 3's vocabulary; 104 schemas of ours, 35,000 characters, are about 10,000 tokens."""
BOUNDS = ("maxLength", "enum", "const", "pattern", "format")
"""Keywords after which a string ends somewhere."""
EXAMPLES_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing to change: `error` stops an engine or a training, `warning` makes answers worse."""

    level: Literal["error", "warning"]
    message: str


def check_catalogue(catalogue: Catalogue, prompt_tokens: int) -> list[Finding]:
    """Return what is wrong with a catalogue, errors first; `prompt_tokens` is what a prompt has room for."""
    checks = (_broken_schemas, _missing_descriptions, _alike_descriptions, _odd_names, _unbounded_strings)
    findings = [finding for check in checks for finding in check(catalogue)]
    findings += _too_many(catalogue, prompt_tokens)
    return sorted(findings, key=lambda finding: finding.level)


def _broken_schemas(catalogue: Catalogue) -> Iterator[Finding]:
    for name, tool in catalogue.tools.items():
        try:
            build_validator(tool.parameters)
        except ValueError as error:
            yield Finding("error", f"tools.{name}.parameters: {error}")


def _missing_descriptions(catalogue: Catalogue) -> Iterator[Finding]:
    for name, tool in catalogue.tools.items():
        if not tool.description.strip():
            yield Finding("warning", f"tools.{name}: no description; a model knows it by its name alone")
        silent = [argument for argument, schema in tool.properties.items() if not schema.get("description")]
        if silent:
            yield Finding("warning", f"tools.{name}.parameters: no description of {', '.join(silent)}")


def _alike_descriptions(catalogue: Catalogue) -> Iterator[Finding]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    tools = {name: tool.description for name, tool in catalogue.tools.items() if re.search(r"\w", tool.description)}
    if len(tools) < 2:
        return
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True).fit_transform(tools.values())
    names, similarities = list(tools), (vectors @ vectors.T).tocoo()
    pairs = zip(similarities.row, similarities.col, similarities.data, strict=True)
    for first, second, cosine in sorted(pairs):
        if first < second and cosine >= ALIKE:
            message = f"tools.{names[first]} and tools.{names[second]}: descriptions are alike ({cosine:.2f})"
            yield Finding("warning", f"{message}; say how they differ")


def _odd_names(catalogue: Catalogue) -> Iterator[Finding]:
    for name in catalogue.names:
        if not wire_name(name).isidentifier():
            yield Finding("warning", f"tools.{name}: vLLM's llama4_pythonic takes identifiers only; use '_' for '-'")


def _unbounded_strings(catalogue: Catalogue) -> Iterator[Finding]:
    unbounded = [f"{name}.{path}" for name, tool in catalogue.tools.items() for path in _find_unbounded(tool)]
    if unbounded:
        shown = ", ".join(unbounded[:EXAMPLES_SHOWN]) + (", …" if len(unbounded) > EXAMPLES_SHOWN else "")
        message = f"{len(unbounded)} strings without maxLength: a model that loops fills them to max_tokens: {shown}"
        yield Finding("warning", message)


def _find_unbounded(tool: Tool) -> Iterator[str]:
    for path, node in _walk(tool.parameters, ""):
        kind = node.get("type")
        is_string = kind == "string" or (isinstance(kind, list) and "string" in kind)
        if is_string and not any(bound in node for bound in BOUNDS):
            yield path


def _walk(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield all objects of a schema with their paths in the arguments."""
    if isinstance(node, Mapping):
        yield path, node
        for key, value in node.items():
            if key == "properties" and isinstance(value, Mapping):
                for name, inner in value.items():
                    yield from _walk(inner, f"{path}.{name}".lstrip("."))
            elif key not in VALUES:
                yield from _walk(value, path)
    elif isinstance(node, list):
        for item in node:
            yield from _walk(item, path)


def _too_many(catalogue: Catalogue, prompt_tokens: int) -> Iterator[Finding]:
    characters = sum(len(json.dumps(entry, ensure_ascii=False)) for entry in catalogue.openai())
    tokens = round(characters / CHARACTERS_PER_TOKEN)
    if tokens > prompt_tokens:
        message = f"{len(catalogue.names)} tools are about {tokens:,} tokens, and a prompt has {prompt_tokens:,}"
        yield Finding("warning", f"{message}; `data.show: nearest` shows the nearest to each request")
