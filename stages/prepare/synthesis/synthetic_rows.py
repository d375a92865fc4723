"""Generates training examples from a tool catalogue, in several languages, seeded and offline.

For each tool there are single calls, near-misses, parallel calls, questions for missing arguments, answers after a
result, and requests that need no tool. Phrases come from the catalogue's tools, sentence templates and values from
`data/synthesis/LANGUAGE.yaml`; a tool without phrases is requested by its description. An LLM can write the examples
instead: see `llm_writer.py`.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

from tuneline.configs.catalogue import Catalogue
from tuneline.configs.data import Data, Source
from tuneline.core.errors import BadRecipe
from tuneline.engines.tool_calls import ToolCall
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.synthesis.catalogue_language import CatalogueLanguage, load_language
from tuneline.stages.prepare.synthesis.patterns import parse_pattern
from tuneline.stages.prepare.synthesis.requests import Request
from tuneline.stages.prepare.synthesis.structured_values import describe_value

CYCLE = ("single", "near", "result", "single", "missing", "single", "parallel", "none", "result", "near")
"""Kinds of the examples of a tool, in turn: of 50, 15 single calls, 10 near-misses, 10 results, 5 of each other."""
DISTRACTORS = (8, 24)
"""Fewest and most other tools shown, unless the recipe says otherwise."""
SIMILAR_TOOLS = 4
"""Tools shown in a near-miss that are the most similar to the right one."""
TRIES = 40
RETRIEVAL_VERBS = (
    *("look", "find", "search", "list", "show", "read", "check", "compare", "count", "calculate", "convert"),
    *("forecast", "describe", "summarize", "recall", "get", "translate", "correct"),
)
"""First words of descriptions of tools that return information. Any other tool performs an action, which is confirmed
instead."""


def make_synthesizer(data: Data, catalogue: Catalogue | None) -> Callable[[Source, int], Iterator[Row]]:
    """Return a function that yields the rows of a source with `per_tool`, given the source and its index."""

    def synthesize(source: Source, index: int) -> Iterator[Row]:
        if catalogue is None:
            raise BadRecipe(f"data.sources.{index}: per_tool: {source.per_tool}: needs a catalogue (data.tools)")
        if source.synthesize:
            from tuneline.stages.prepare.synthesis.llm_writer import write_rows

            yield from write_rows(source, catalogue, data)
            return
        yield from _Generator(catalogue, data, source, random.Random(f"{data.seed} {index}")).rows()

    return synthesize


class _Generator:
    """Generates the examples of one source. A method `_KIND` makes an example of each kind in `CYCLE`."""

    def __init__(self, catalogue: Catalogue, data: Data, source: Source, rng: random.Random) -> None:
        self.catalogue, self.data, self.source, self.rng = catalogue, data, source, rng
        self.languages = [load_language(catalogue, name) for name in source.languages]
        self.requests: set[str] = set()

    def rows(self) -> Iterator[Row]:
        """Yield the examples, cycling through the tools. No first request is repeated."""
        assert self.source.per_tool
        for number in range(self.source.per_tool):
            for position, tool in enumerate(self.catalogue.names):
                language = self.languages[(number + position) % len(self.languages)]
                yield self._new_row(CYCLE[number % len(CYCLE)], tool, language)

    def _new_row(self, kind: str, tool: str, language: CatalogueLanguage) -> Row:
        for _ in range(TRIES):
            row: Row = getattr(self, f"_{kind}")(tool, language)
            request = next(message.content or "" for message in row.messages if message.role == "user")
            if request not in self.requests:
                self.requests.add(request)
                return row
        raise BadRecipe(
            f"data.sources: per_tool: {self.source.per_tool}: no more phrasings for {tool}; use a lower number"
        )

    def _single(self, tool: str, language: CatalogueLanguage) -> Row:
        request = self._request(tool, language)
        return self._row([_user(request.text), _calls(request)], [tool])

    def _near(self, tool: str, language: CatalogueLanguage) -> Row:
        request = self._request(tool, language)
        return self._row([_user(request.text), _calls(request)], [tool], similar=SIMILAR_TOOLS)

    def _parallel(self, tool: str, language: CatalogueLanguage) -> Row:
        first, second = (
            self._request(tool, language, bare=True),
            self._request(self.rng.choice(self.catalogue.names), language, bare=True),
        )
        text = self._template(language, "both").format(first=first.text, second=second.text)
        return self._row([_user(text), _calls(first, second)], [tool, second.tool])

    def _missing(self, tool: str, language: CatalogueLanguage) -> Row:
        """A request without one or all required arguments, and the question for them; half of the time the answer."""
        required = self.catalogue.tools[tool].required
        if not required:
            return self._single(tool, language)
        request = self._complete_request(tool, language)
        missing = required if self.rng.random() < 0.5 else [self.rng.choice(required)]
        present = {slot: value for slot, value in request.arguments.items() if slot not in missing}
        what = language.summary(self.catalogue.tools[tool])
        template = self._template(language, "partly" if present else "want")
        text = self._surround(language, template.format(what=what, arguments=language.list_arguments(present)))
        labels = language.templates["and"].join(language.label(slot) for slot in missing)
        turns = [_user(text), _assistant(self._template(language, "which").format(labels=labels))]
        if self.rng.random() < 0.5:
            answers = {slot: request.arguments[slot] for slot in missing}
            turns += [_user(", ".join(map(describe_value, answers.values()))), _calls(request)]
        return self._row(turns, [tool])

    def _none(self, tool: str, language: CatalogueLanguage) -> Row:
        """Talk that needs no tool, or a request for a tool that is not shown, nor are those most similar to it."""
        if self.data.catalogue == "shown" and self.rng.random() < 0.5:
            request = self._request(tool, language)
            turns = [_user(request.text), _assistant(self._template(language, "cannot"))]
            return self._row(turns, [], without=[tool, *most_similar_tools(self.catalogue, tool)[:SIMILAR_TOOLS]])
        return self._row(self._talk(language), [])

    def _result(self, tool: str, language: CatalogueLanguage) -> Row:
        request = self._request(tool, language)
        retrieves = self.catalogue.tools[tool].description.lower().startswith(RETRIEVAL_VERBS)
        value = language.grammar.value("sentence" if retrieves else "number", self.rng)
        result = {"result": value} if retrieves else {"status": "ok", "reference": value}
        answer = self._template(language, "found" if retrieves else "did").format(value=value)
        message = {"role": "tool", "content": json.dumps(result, ensure_ascii=False)}
        return self._row([_user(request.text), _calls(request), message, _assistant(answer)], [tool])

    def _request(self, tool: str, language: CatalogueLanguage, *, bare: bool = False) -> Request:
        request = language.grammar.request(self.rng.choice(language.patterns[tool]), self.rng)
        text = request.text
        if bare:  # part of a longer sentence: without opener and closer
            for opener in sorted(filter(None, language.grammar.openers), key=len, reverse=True):
                text = re.sub(rf"^{re.escape(opener)} ", "", text, flags=re.I)
            for closer in sorted(filter(None, language.grammar.closers), key=len, reverse=True):
                text = text.removesuffix(closer)
        return Request(text, tool, request.arguments, request.phrasing)

    def _complete_request(self, tool: str, language: CatalogueLanguage) -> Request:
        """Return a request with all required arguments."""
        required = set(self.catalogue.tools[tool].required)
        while not required <= (request := self._request(tool, language)).arguments.keys():
            continue
        return request

    def _talk(self, language: CatalogueLanguage) -> list[dict[str, Any]]:
        pattern, answers = self.rng.choice(list(language.templates["talk"].items()))
        values: dict[str, str] = {}

        def value(name: str) -> str:
            kind = {"text": "sentence"}.get(name, name)
            return values.setdefault(name, language.grammar.value(kind, self.rng))

        text = parse_pattern(pattern).expand(self.rng, value)
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        answer = self.rng.choice(answers).format(
            text=values.get("text", ""), TEXT=values.get("text", "").upper(), sum=sum(numbers)
        )
        return [_user(self._surround(language, text)), _assistant(answer)]

    def _surround(self, language: CatalogueLanguage, text: str) -> str:
        """Return the text with a random opener and closer."""
        opener, closer = self.rng.choice(language.grammar.openers), self.rng.choice(language.grammar.closers)
        return f"{opener} {text}".strip() + ("" if text.endswith(("?", "!", ".")) else closer)

    def _template(self, language: CatalogueLanguage, key: str) -> str:
        return str(self.rng.choice(language.templates[key]))

    def _row(
        self, turns: list[dict[str, Any]], right: list[str], *, similar: int = 0, without: list[str] | None = None
    ) -> Row:
        head = [{"role": "system", "content": self.data.system}] if self.data.system else []
        tools = self._select_tools(right, similar, without or []) if self.data.catalogue == "shown" else []
        return Row.model_validate({"messages": [*head, *turns], "tools": tools, "source": "catalogue"})

    def _select_tools(self, right: list[str], similar: int, without: list[str]) -> list[str]:
        """Return the right tools, the `similar` most similar to the first, and random others, but none of `without`."""
        if not without and self.rng.random() < self.data.whole_catalogue:
            return list(self.catalogue.names)
        right = list(dict.fromkeys(right))
        near = [name for tool in right[:1] for name in most_similar_tools(self.catalogue, tool)[:similar]]
        selected = list(dict.fromkeys([*right, *near]))
        others = [name for name in self.catalogue.names if name not in selected and name not in without]
        bounds = self.data.distractors if "distractors" in self.data.model_fields_set else DISTRACTORS
        count = min(len(others), max(0, self.rng.randint(*bounds) - len(selected) + len(right)))
        tools = selected + self.rng.sample(others, count)
        self.rng.shuffle(tools)
        return tools


def most_similar_tools(catalogue: Catalogue, tool: str) -> list[str]:
    """Return the other tools, the most similar first: by the words that names and descriptions have in common."""
    tool_words = _word_set(tool, catalogue)

    def similarity(name: str) -> float:
        words = _word_set(name, catalogue)
        return len(tool_words & words) / len(tool_words | words)

    return sorted((name for name in catalogue.names if name != tool), key=similarity, reverse=True)


def _word_set(name: str, catalogue: Catalogue) -> set[str]:
    return set(re.findall(r"\w+", f"{name} {catalogue.tools[name].description}".lower()))


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _calls(*requests: Request) -> dict[str, Any]:
    calls = [ToolCall(request.tool, request.arguments).openai() for request in requests]
    return {"role": "assistant", "tool_calls": calls}
