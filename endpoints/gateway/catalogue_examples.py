"""Requests for the tools of a catalogue, from which tasks are recognised: of its phrases, and of its descriptions."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.configs.gateway import Recognition
from tuneline.core.errors import BadData, BadRecipe
from tuneline.core.paths import resolve
from tuneline.stages.prepare.synthesis.catalogue_language import TEMPLATES, load_language

PER_TOOL = 8
"""Requests for a tool in a language: more of its few phrases, with other values, take longer and recognise no more."""
USUAL_LANGUAGE = "en"
"""Of descriptions, where a catalogue has no phrases."""


@dataclass(frozen=True)
class Example:
    """A request of a known task."""

    text: str
    task: str
    group: str
    """What it is a variant of: variants are not learned from and tested on."""


def read_catalogue_examples(recognition: Recognition) -> Iterator[Example]:
    """Yield requests for the tools that `recognition.tools` names, in each language that the catalogue has phrases of.

    Raises:
        BadRecipe: the catalogue cannot be read, or has no such tool.
    """
    if recognition.catalogue is None:
        return
    try:
        catalogue = load_catalogue(resolve(recognition.catalogue))
        tasks = _tasks_of_tools(recognition, catalogue)
        for language in _languages(catalogue):
            yield from _make_examples(catalogue, language, tasks)
    except BadData as error:
        raise BadRecipe(f"recognition.catalogue: {error}") from None


def _tasks_of_tools(recognition: Recognition, catalogue: Catalogue) -> dict[str, str]:
    """Return tool → the first task that names it."""
    tasks: dict[str, str] = {}
    for task, patterns in recognition.tools.items():
        for pattern in patterns:
            names = [name for name in catalogue.names if fnmatchcase(name, pattern)]
            if not names:
                raise BadRecipe(f"recognition.tools.{task}: {pattern!r}: no such tool in {recognition.catalogue}")
            for name in names:
                tasks.setdefault(name, task)
    return tasks


def _languages(catalogue: Catalogue) -> list[str]:
    """Return the languages of phrases that sentences can be made in."""
    spoken = {language for tool in catalogue.tools.values() for language in tool.phrases}
    return sorted(language for language in spoken if (TEMPLATES / f"{language}.yaml").exists()) or [USUAL_LANGUAGE]


def _make_examples(catalogue: Catalogue, language: str, tasks: dict[str, str]) -> Iterator[Example]:
    chosen = Catalogue(tools={name: catalogue.tools[name] for name in tasks})
    spoken = load_language(chosen, language)
    for name, task in tasks.items():
        rng, handlers = random.Random(f"{name} {language}"), spoken.patterns[name]
        for number in range(PER_TOOL):
            request = spoken.grammar.request(handlers[number % len(handlers)], rng)
            yield Example(request.text, task, request.phrasing)
