"""Examples made from a catalogue: for each tool single calls, near-misses, parallel calls, questions for what is
missing, answers after a result, and requests that need no tool; in several languages, seeded and offline.

Phrases come from the catalogue's tools, frames and values from `data/synthesis/LANGUAGE.yaml`; a tool without phrases
is asked for by its description. A model of any provider can write the examples instead: see `hired.py`.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from tuneline.configs.catalogue import Catalogue, Tool
from tuneline.configs.data import Data, Source
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT
from tuneline.engines.tool_calls import ToolCall
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.synthesis.grammar import Grammar, Handler, Request, parse, slots_of, whole_numbers

FRAMES = ROOT / "data" / "synthesis"
CYCLE = ("single", "near", "result", "single", "missing", "single", "parallel", "none", "result", "near")
"""What the examples of a tool are, in turn: of 50, 15 single calls, 10 near-misses, 10 results, 5 of each other."""
DISTRACTORS = (8, 24)
"""Fewest and most other tools shown, unless the recipe says otherwise."""
NEAR = 4
"""How many of the tools most like the right one are shown in a near-miss."""
TRIES = 40
FINDS = (
    *("look", "find", "search", "list", "show", "read", "check", "compare", "count", "calculate", "convert"),
    *("forecast", "describe", "summarize", "recall", "get", "translate", "correct"),
)
"""First words of descriptions of tools whose result is told; other tools do something, and that is confirmed."""
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Language:
    """The frames of one language, and the grammar of a catalogue in it."""

    frames: dict[str, Any]
    grammar: Grammar
    patterns: dict[str, list[str]]
    """For each tool, the handlers of `grammar` that ask for it."""


def examples(data: Data, catalogue: Catalogue | None) -> Callable[[Source, int], Iterator[Row]]:
    """What makes the rows of a source with `per_tool`."""

    def made(source: Source, number: int) -> Iterator[Row]:
        if catalogue is None:
            raise BadRecipe(f"data.sources.{number}: per_tool: {source.per_tool}: needs a catalogue (data.tools)")
        if source.synthesize:
            from tuneline.stages.prepare.synthesis.llm_writer import hired

            yield from hired(source, catalogue, data)
            return
        yield from _Maker(catalogue, data, source, random.Random(f"{data.seed} {number}")).rows()

    return made


class _Maker:
    def __init__(self, catalogue: Catalogue, data: Data, source: Source, rng: random.Random) -> None:
        self.catalogue, self.data, self.source, self.rng = catalogue, data, source, rng
        self.languages = [language_of_catalogue(catalogue, name) for name in source.languages]
        self.seen: set[str] = set()

    def rows(self) -> Iterator[Row]:
        """The examples, tool after tool; no request comes twice."""
        assert self.source.per_tool
        for number in range(self.source.per_tool):
            for position, tool in enumerate(self.catalogue.names):
                language = self.languages[(number + position) % len(self.languages)]
                yield self._new(CYCLE[number % len(CYCLE)], tool, language)

    def _new(self, kind: str, tool: str, language: Language) -> Row:
        for _ in range(TRIES):
            row: Row = getattr(self, f"_{kind}")(tool, language)
            asked = next(m.content or "" for m in row.messages if m.role == "user")
            if asked not in self.seen:
                self.seen.add(asked)
                return row
        raise BadRecipe(f"data.sources: per_tool: {self.source.per_tool}: phrases for {tool} run out; ask for fewer")

    def _single(self, tool: str, language: Language) -> Row:
        request = self._request(tool, language)
        return self._row([_user(request.text), _calls(request)], [tool])

    def _near(self, tool: str, language: Language) -> Row:
        request = self._request(tool, language)
        return self._row([_user(request.text), _calls(request)], [tool], similar=NEAR)

    def _parallel(self, tool: str, language: Language) -> Row:
        first, second = (
            self._request(tool, language, bare=True),
            self._request(self.rng.choice(self.catalogue.names), language, bare=True),
        )
        text = self._one(language, "both").format(first=first.text, second=second.text)
        return self._row([_user(text), _calls(first, second)], [tool, second.tool])

    def _missing(self, tool: str, language: Language) -> Row:
        """A request without one or all of what is required, and the question for it; then sometimes the answer."""
        required = self.catalogue.tools[tool].required
        if not required:
            return self._single(tool, language)
        request = self._full(tool, language)
        left_out = required if self.rng.random() < 0.5 else [self.rng.choice(required)]
        told = {slot: value for slot, value in request.arguments.items() if slot not in left_out}
        what = _what(self.catalogue.tools[tool], language)
        frame = self._one(language, "partly" if told else "want")
        text = self._around(language, frame.format(what=what, arguments=_listed(told, language)))
        labels = language.frames["and"].join(_label(slot, language) for slot in left_out)
        turns = [_user(text), _says(self._one(language, "which").format(labels=labels))]
        if self.rng.random() < 0.5:
            answers = {slot: request.arguments[slot] for slot in left_out}
            turns += [_user(", ".join(str(value) for value in answers.values())), _calls(request)]
        return self._row(turns, [tool])

    def _none(self, tool: str, language: Language) -> Row:
        """Talk that needs no tool; or a request for a tool that is not there, beside those most like it."""
        if self.data.catalogue == "shown" and self.rng.random() < 0.5:
            request = self._request(tool, language)
            turns = [_user(request.text), _says(self._one(language, "cannot"))]
            return self._row(turns, [], without=[tool, *nearest(self.catalogue, tool)[:NEAR]])
        return self._row(self._talk(language), [])

    def _result(self, tool: str, language: Language) -> Row:
        request = self._request(tool, language)
        finds = self.catalogue.tools[tool].description.lower().startswith(FINDS)
        value = language.grammar.value("sentence" if finds else "number", self.rng)
        result = {"result": value} if finds else {"status": "ok", "reference": value}
        answer = self._one(language, "found" if finds else "did").format(value=value)
        told = {"role": "tool", "content": json.dumps(result, ensure_ascii=False)}
        return self._row([_user(request.text), _calls(request), told, _says(answer)], [tool])

    def _request(self, tool: str, language: Language, *, bare: bool = False) -> Request:
        made = language.grammar.request(self.rng.choice(language.patterns[tool]), self.rng)
        text = made.text
        if bare:  # inside a longer sentence: without what is said around it
            for opener in sorted(filter(None, language.grammar.openers), key=len, reverse=True):
                text = re.sub(rf"^{re.escape(opener)} ", "", text, flags=re.I)
            for closer in sorted(filter(None, language.grammar.closers), key=len, reverse=True):
                text = text.removesuffix(closer)
        return Request(text, tool, made.arguments, made.carrier)

    def _full(self, tool: str, language: Language) -> Request:
        """A request that has all that is required."""
        required = set(self.catalogue.tools[tool].required)
        while not required <= (made := self._request(tool, language)).arguments.keys():
            continue
        return made

    def _talk(self, language: Language) -> list[dict[str, Any]]:
        asked, answers = self.rng.choice(list(language.frames["talk"].items()))
        values: dict[str, str] = {}

        def value(name: str) -> str:
            kind = {"text": "sentence"}.get(name, name)
            return values.setdefault(name, language.grammar.value(kind, self.rng))

        text = parse(asked).expand(self.rng, value)
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        said = self.rng.choice(answers).format(
            text=values.get("text", ""), TEXT=values.get("text", "").upper(), sum=sum(numbers)
        )
        return [_user(self._around(language, text)), _says(said)]

    def _around(self, language: Language, text: str) -> str:
        opener, closer = self.rng.choice(language.grammar.openers), self.rng.choice(language.grammar.closers)
        return f"{opener} {text}".strip() + ("" if text.endswith(("?", "!", ".")) else closer)

    def _one(self, language: Language, key: str) -> str:
        return str(self.rng.choice(language.frames[key]))

    def _row(
        self, turns: list[dict[str, Any]], right: list[str], *, similar: int = 0, without: list[str] | None = None
    ) -> Row:
        head = [{"role": "system", "content": self.data.system}] if self.data.system else []
        shown = self._shown(right, similar, without or []) if self.data.catalogue == "shown" else []
        return Row.model_validate({"messages": [*head, *turns], "tools": shown, "source": "catalogue"})

    def _shown(self, right: list[str], similar: int, without: list[str]) -> list[str]:
        if not without and self.rng.random() < self.data.whole_catalogue:
            return list(self.catalogue.names)
        right = list(dict.fromkeys(right))
        close = [name for tool in right[:1] for name in nearest(self.catalogue, tool)[:similar]]
        taken = list(dict.fromkeys([*right, *close]))
        others = [name for name in self.catalogue.names if name not in taken and name not in without]
        bounds = self.data.distractors if "distractors" in self.data.model_fields_set else DISTRACTORS
        count = min(len(others), max(0, self.rng.randint(*bounds) - len(taken) + len(right)))
        shown = taken + self.rng.sample(others, count)
        self.rng.shuffle(shown)
        return shown


def language_of_catalogue(catalogue: Catalogue, name: str) -> Language:
    """The grammar of a catalogue in a language: the tools' own phrases, and frames around what each does."""
    frames = _frames(name)
    values = {kind: parse(text, name) for kind, text in frames["values"].items()}
    handlers: dict[str, Handler] = {}
    patterns: dict[str, list[str]] = {}
    for tool_name, tool in catalogue.tools.items():
        phrases = tool.phrases.get(name)
        said = [*(phrases.say if phrases else ()), *_framed(tool, name, frames)]
        for number, text in enumerate(said):
            slots = slots_of(tool_name, tool, values, frames["kinds"], _SLOT.findall(text))
            key = f"{tool_name} {number}"
            handlers[key] = Handler(slots, (parse(text, tool_name),), whole_numbers(tool))
            patterns.setdefault(tool_name, []).append(key)
    grammar = Grammar(tuple(frames["openers"]), tuple(frames["closers"]), values, handlers, language=name)
    return Language(frames, grammar, patterns)


def nearest(catalogue: Catalogue, tool: str) -> list[str]:
    """The other tools, those first whose names and descriptions have the most words in common with this one's."""
    own = _words(tool, catalogue)

    def likeness(name: str) -> float:
        other = _words(name, catalogue)
        return len(own & other) / len(own | other)

    return sorted((name for name in catalogue.names if name != tool), key=likeness, reverse=True)


def _words(name: str, catalogue: Catalogue) -> set[str]:
    return set(re.findall(r"\w+", f"{name} {catalogue.tools[name].description}".lower()))


@cache
def _frames(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FRAMES / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def _framed(tool: Tool, language: str, frames: dict[str, Any]) -> Iterator[str]:
    """Patterns around what a tool does: with what is required, and with all there is."""
    what = _plain(tool.phrases[language].what if language in tool.phrases else _described(tool))
    required, everything = tool.required, tuple(tool.properties)
    for slots in dict.fromkeys([required, everything]):
        listed = ", ".join(f"{_plain(frames['labels'].get(slot, slot.replace('_', ' ')))} {{{slot}}}" for slot in slots)
        for frame in frames["frames"] if slots else frames["want"]:
            yield frame.replace("{what}", what).replace("{arguments}", listed)


def _plain(text: str) -> str:
    return re.sub(r"[()|<{}]", " ", text)


def _what(tool: Tool, language: Language) -> str:
    name = language.grammar.language
    return tool.phrases[name].what if name in tool.phrases else _described(tool)


def _described(tool: Tool) -> str:
    text = tool.description.split(".")[0].strip() or "use it"
    return text[0].lower() + text[1:]


def _label(slot: str, language: Language) -> str:
    return str(language.frames["labels"].get(slot, slot.replace("_", " ")))


def _listed(arguments: dict[str, Any], language: Language) -> str:
    return ", ".join(f"{_label(slot, language)} {value}" for slot, value in arguments.items())


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _calls(*requests: Request) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [ToolCall(r.tool, r.arguments).openai() for r in requests]}
