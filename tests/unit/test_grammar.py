"""Grammars: the phrasings a model is tested on are not those it learned, and a slip in a pattern is named."""

import random
from pathlib import Path

import pytest

from tuneline.configs.catalogue import load_catalogue
from tuneline.core.errors import BadData
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.synthesis.grammar import Grammar, load_grammar
from tuneline.stages.prepare.synthesis.patterns import parse_pattern

REQUESTS = ROOT / "data" / "requests"
SAMPLES = 150


@pytest.fixture(scope="module")
def grammars() -> dict[str, Grammar]:
    return {name: load_grammar(REQUESTS / f"{name}.yaml") for name in ("train", "test", "far")}


def test_training_and_test_share_no_phrasing(grammars: dict[str, Grammar]) -> None:
    phrasings = {}
    for name, grammar in grammars.items():
        rng = random.Random(7)
        phrasings[name] = {grammar.request(tool, rng).phrasing for tool in grammar.handlers for _ in range(SAMPLES)}
    assert len(phrasings["train"]) > 1000
    for other in ("test", "far"):
        assert not phrasings["train"] & phrasings[other], other


def test_every_request_answers_with_arguments_its_tool_has(grammars: dict[str, Grammar]) -> None:
    catalogue = load_catalogue(ROOT / "configs" / "tools" / "handlers.yaml")
    for name, grammar in grammars.items():
        assert set(grammar.handlers) == set(catalogue.names), name
        for tool in grammar.handlers:
            request = grammar.request(tool, random.Random(1))
            parameters = catalogue.tools[tool].parameters
            assert set(parameters.get("required", ())) <= set(request.arguments) <= set(parameters["properties"]), tool


def test_an_argument_stands_in_the_text_word_for_word(grammars: dict[str, Grammar]) -> None:
    rng = random.Random(3)
    for name, grammar in grammars.items():
        for tool in grammar.handlers:
            for _ in range(40):
                request = grammar.request(tool, rng)
                missing = [v for v in request.arguments.values() if v not in request.text]
                assert not missing, (name, request)
                assert not set("{}|<>") & set(request.text), request


def test_training_has_thousands_of_phrasings_a_handler(grammars: dict[str, Grammar]) -> None:
    train = grammars["train"]
    around = len(set(train.openers)) * len(set(train.closers))
    few = {tool: count * around for tool, count in train.phrasings.items() if count * around < 2000}
    assert not few


def test_the_same_seed_gives_the_same_requests(grammars: dict[str, Grammar]) -> None:
    tool = next(iter(grammars["train"].handlers))
    first, again = (
        [grammars["train"].request(tool, rng) for _ in range(5)] for rng in (random.Random(1), random.Random(1))
    )
    assert first == again != [grammars["train"].request(tool, random.Random(2)) for _ in range(5)]


@pytest.mark.parametrize("text", ["(a|b", "a)", "<1-", "{slot", "<a-b>"])
def test_a_pattern_that_does_not_parse_is_shown(text: str) -> None:
    with pytest.raises(BadData, match="pattern"):
        parse_pattern(text, "file.yaml")


@pytest.mark.parametrize(
    ("say", "value", "says"),
    [("send {whom}", "x", r"handlers\.a\.b.*whom"), ("send {to}", "{nobody}", r"values\.person.*nobody")],
)
def test_an_unknown_slot_or_value_is_named(tmp_path: Path, say: str, value: str, says: str) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(
        f'openers: [""]\nclosers: [""]\nvalues: {{person: "{value}"}}\n'
        f'handlers: {{a.b: {{slots: {{to: person}}, say: ["{say}"]}}}}\n'
    )
    with pytest.raises(BadData, match=says) as caught:
        load_grammar(path)
    assert str(path) in str(caught.value)


def test_noise_changes_fillers_alone(tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    text = """
noise: {noise}
fillers: [the, "on", {third}]
openers: [""]
closers: [""]
values: {{x: "(red|blue)"}}
handlers:
  lamp.light:
    slots: {{colour: x}}
    say: ["light the old lamp on {{colour}} on my desk"]
"""
    file.write_text(text.format(noise=1, third="very"))
    grammar, rng = load_grammar(file), random.Random(0)
    phrasings = {grammar.request("lamp.light", rng).phrasing for _ in range(200)}
    kept = {tuple(sorted(w for w in phrasing.split() if w not in ("the", "on", "very"))) for phrasing in phrasings}
    assert kept == {("_", "desk", "lamp", "light", "my", "old")} and len(phrasings) > 20
    file.write_text(text.format(noise=1, third="off"))
    with pytest.raises(BadData, match=r"fillers\.2: False is not read as text by YAML"):
        load_grammar(file)
    file.write_text(text.format(noise=0, third="very"))
    assert load_grammar(file).request("lamp.light", rng).phrasing == "light the old lamp on _ on my desk"
