"""What each suite judges by: calls by their types and as sets, conversations, languages, styles, long texts."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.evaluation import Suite
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT
from tuneline.stages.evaluate.answers import PARALLEL, Answer, Reply, expected_label, read_answers
from tuneline.stages.evaluate.clients.suite_runner import ask_all
from tuneline.stages.evaluate.scoring import scoreboard
from tuneline.stages.evaluate.scoring.answer_checks import CUT_OFF, NO_LANGUAGE, REPEATS
from tuneline.stages.evaluate.scoring.arguments import same_arguments
from tuneline.stages.evaluate.scoring.grading import grade
from tuneline.stages.evaluate.scoring.preselector_recall import recall_rows
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.run_context import RunContext, estimate_tokens
from tuneline.stages.evaluate.suites.style_classifier import StyleClassifier, held_out_passages
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.prepare.formats.books import split_passages
from tuneline.stages.prepare.rendering.tool_preselector import Preselector

CATALOGUE = load_catalogue(ROOT / "configs/tools/business.yaml")
SCHEMA: dict[str, Any] = {
    "properties": {
        "n": {"type": "integer"},
        "size": {"type": "string", "default": "A4"},
        "tags": {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
        "steps": {"type": "array", "items": {"type": "number"}},
        "of": {"type": "object", "properties": {"x": {"type": "number"}}},
    }
}


def suite(**given: Any) -> Suite:
    return Suite.model_validate({"name": "s", **given})


@pytest.mark.parametrize(
    ("got", "same"),
    [
        ({"n": 5}, True),
        ({"n": 5.0}, True),
        ({"n": "5"}, False),
        ({"n": True}, False),
        ({"n": 5, "size": "A4"}, True),
        ({"n": 5, "size": "A3"}, False),
        ({"n": 5, "tags": None}, True),
        ({"n": 5, "more": 1}, False),
        ({}, False),
        (None, False),
    ],
)
def test_arguments_are_compared_by_their_types(got: Any, same: bool) -> None:
    assert same_arguments({"n": 5}, got, SCHEMA) is same


def test_sets_lists_objects_and_text() -> None:
    assert same_arguments({"tags": ["a", "b"]}, {"tags": ["b", "a"]}, SCHEMA)
    assert not same_arguments({"tags": ["a", "a"]}, {"tags": ["b", "a"]}, SCHEMA)
    assert not same_arguments({"steps": [1, 2]}, {"steps": [2, 1]}, SCHEMA)
    assert same_arguments({"of": {"x": 1}}, {"of": {"x": 1.0}}, SCHEMA)
    assert same_arguments({"t": "it's  “so”"}, {"t": 'it’s "so" '}, SCHEMA)
    assert not same_arguments({"t": "Ana"}, {"t": "Anna"}, SCHEMA)


BOTH = Item(
    "s-0", "write and mail", None, None, "_ and _",
    calls=({"name": "docs.create", "arguments": {"title": "x"}}, {"name": "email.send", "arguments": {"to": "Ana"}}),
)  # fmt: skip


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


@pytest.mark.parametrize(
    ("calls", "name", "exact"),
    [
        ([call("email.send", to="Ana"), call("docs.create", title="x")], True, True),
        ([call("email.send", to="Bo"), call("docs.create", title="x")], True, False),
        ([call("docs.create", title="x")], False, False),
        ([call("docs.create", title="x"), call("docs.create", title="x")], False, False),
        ([call("email.send", to="Ana"), call("docs.create", title="x"), call("rag.search")], False, False),
        ([], False, False),
    ],
)
def test_several_calls_are_a_set(calls: list[dict[str, Any]], name: bool, exact: bool) -> None:
    answer = grade(BOTH, Reply(calls), RunContext(CATALOGUE))
    assert (answer.name_correct, answer.exact, expected_label(answer)) == (name, exact, PARALLEL)


def test_a_conversation_is_asked_in_its_order_and_is_one_cluster(tmp_path: Path) -> None:
    made = make_items(
        suite(
            items=[
                {"ask": ["who?", "chi?"], "says": ["zantara"], "then": [{"ask": ["no", "ma no"], "never": ["gpt"]}]},
                {"ask": "bye"},
            ]
        )
    )
    assert [item.text for item in made] == ["who?", "no", "chi?", "ma no", "bye"]
    assert [item.phrasing for item in made] == ["who?", "who?", "chi?", "chi?", "bye"]
    heard: dict[str, list[str]] = {}

    async def ask(item: Item, before: list[dict[str, Any]]) -> Reply:
        heard[item.text] = [message["content"] for message in before]
        return Reply(text=f"zantara hears {item.text}")

    asyncio.run(ask_all(made, ask, tmp_path / "a.jsonl"))
    assert heard["no"] == ["who?", "zantara hears who?"] and heard["chi?"] == []
    answers = sorted(read_answers(tmp_path / "a.jsonl"), key=lambda a: a.id)
    turns = scoreboard.by_turn("s", "m", answers, 0.95)
    assert [(row["turn"], row["n"]) for row in turns] == [(1, 3), (2, 2)]
    assert scoreboard.scoreboard_row("s", "m", answers, 0.95)["clusters"] == 3


ITALIAN = "La casa vicino alla spiaggia è tranquilla e luminosa. Ogni mattina il sole entra dalle finestre grandi."
ENGLISH = "The house close to the beach is quiet and full of light. Every morning the sun comes in through big windows."


@pytest.mark.parametrize(
    ("text", "cut", "fault"),
    [
        (ITALIAN, False, None),
        (ENGLISH, False, "in another language: en"),
        (f"{ITALIAN} {ITALIAN[:60]}. {ENGLISH[:58]}", False, "mixed languages: en"),
        ("Certo.", False, NO_LANGUAGE),
        (ITALIAN, True, CUT_OFF),
        (f"{ITALIAN} " * 3, False, REPEATS),
        (ITALIAN + " ha" * 20, False, REPEATS),
    ],
)
def test_language_and_its_faults(text: str, cut: bool, fault: str | None) -> None:
    (item,) = make_items(suite(items=[{"ask": "describe it", "language": "it", "in_language": True, "tools": False}]))
    assert grade(item, Reply(text=text, cut=cut)).fault == fault


def test_chrf_and_bleu_by_language() -> None:
    made = make_items(suite(items=[{"ask": "translate", "language": "it", "in_language": True, "reference": ITALIAN}]))
    same, other = ([grade(made[0], Reply(text=text))] for text in (ITALIAN, ENGLISH))
    (best,), (worst,) = (scoreboard.by_reference("s", "m", answers, 0.95) for answers in (same, other))
    assert (best["chrf"], best["bleu"], best["language"], best["n"]) == (100, 100, "it", 1)
    assert worst["chrf"] < 30 and worst["bleu"] < 5


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("held") / "validation.jsonl"
    with file.open("w") as out:
        for text in sorted((ROOT / "data/styles").glob("*/*.txt"))[::3]:  # one document of each style
            for passage in split_passages(text.read_text(), words=60):
                out.write(json.dumps({"style": text.parent.name, "messages": [{"content": passage.text}]}) + "\n")
    return file


def test_styles_are_told_from_documents_nobody_learned(styles: Path) -> None:
    told = StyleClassifier(held_out_passages(styles))
    others = [
        (text.parent.name, passage.text)
        for text in sorted((ROOT / "data/styles").glob("*/*.txt"))
        for passage in split_passages(text.read_text(), words=120)
    ]
    right = [told.predict(text) == style for style, text in others]
    assert told.names == ["epico", "piano", "straniato"] and sum(right) / len(right) > 0.8
    own = [told.distance(text, style) for style, text in held_out_passages(styles)]
    far = told.distance("SELECT * FROM invoices WHERE paid = 0;", "epico")
    assert sum(own) / len(own) < 1.1 < far


def test_the_style_suite_asks_for_the_runs_styles_and_switches(styles: Path) -> None:
    known = RunContext(prepared=styles.parent)
    asked = suite(
        styles=True,
        items=[{"ask": "as {style}", "style": "{style}", "then": [{"ask": "now {other}", "style": "{other}"}]}],
    )
    made = make_items(asked, known)
    assert [item.style for item in made] == ["epico", "piano", "piano", "straniato", "straniato", "epico"]
    _, text = held_out_passages(styles)[0]
    answers = [grade(item, Reply(text=text), known) for item in made]
    assert [a.name_correct for a in answers] == [True, False, False, False, False, True]
    rows = scoreboard.by_style("s", "m", answers, 0.95)
    assert rows[0]["told"] == {"epico": 2} and rows[0]["distance"] < rows[1]["distance"]
    with pytest.raises(BadRecipe, match="fewer than two"):
        make_items(asked, RunContext())


def test_a_fact_lies_at_its_depth_in_texts_that_fit(tmp_path: Path) -> None:
    asked = suite(
        lengths=[512, 1024, 4096],
        depths=[0, 0.5, 1],
        items=[{"ask": "Which code?", "fact": "The code is 4411.", "says": ["4411"], "tools": False}],
    )
    made = make_items(asked, RunContext(context_tokens=2048))
    assert [(item.about["length"], item.about["depth"]) for item in made] == [
        (length, depth) for length in (512, 1024) for depth in (0, 0.5, 1)
    ]
    for item in made:
        length, depth = item.about["length"], item.about["depth"]
        assert 0.4 * length < estimate_tokens(item.context) <= length
        place = item.context.index("The code is 4411.") / (len(item.context) - len("The code is 4411."))
        assert abs(place - depth) < 0.1
    answers = [grade(i, Reply(text="4411" if i.about["depth"] else "I do not know")) for i in made]
    curve = scoreboard.by_depth("s", "m", answers, 0.95)
    assert [row["name_accuracy"] for row in curve] == [0, 1, 1, 0, 1, 1]
    with pytest.raises(BadRecipe, match="no item fits in a context of 256"):
        make_items(asked, RunContext(context_tokens=256))


def test_the_preselector_finds_the_tool_and_recall_says_how_often() -> None:
    chooser = Preselector.from_catalogue(CATALOGUE, [("ping Ana over the green app", "whatsapp.send")])
    assert "whatsapp.send" in chooser.select("please ping Bo over the green app", 4)
    assert len(chooser.select("anything", 16)) == 16
    items = [
        Item("a", "ping Bo over the green app", "whatsapp.send", None, "a"),
        Item("b", "xyzzy", CATALOGUE.names[-1], None, "b"),
        Item("c", "thanks", None, None, "c"),
    ]
    rows = {row["k"]: row for row in recall_rows("s", items, chooser, 0.95)}
    assert rows[1]["n"] == 2 and rows[1]["recall"] == 0.5 and rows[32]["low"] < 0.5 < rows[32]["high"]


def test_languages_are_told_apart_where_there_are_several() -> None:
    def answer(language: str, right: bool) -> Answer:
        item = Item(language, language, "docs.create", None, language, language=language)
        return grade(item, Reply([call("docs.create" if right else "rag.search")]))

    rows = scoreboard.by_language("s", "m", [answer("en", True), answer("it", False), answer("it", True)], 0.95)
    assert [(row["language"], row["n"], row["name_accuracy"]) for row in rows] == [("en", 1, 1.0), ("it", 2, 0.5)]
    assert scoreboard.by_language("s", "m", [answer("en", True)], 0.95) == []


def test_a_fact_may_be_said_in_one_of_several_ways() -> None:
    (item,) = make_items(suite(items=[{"ask": "capital?", "says": ["Paris|Parigi"]}]))
    assert [grade(item, Reply(text=t)).fault for t in ("It is Parigi.", "It is Lyon.")] == [
        None,
        "not named: Paris|Parigi",
    ]


def test_a_call_nobody_parsed_is_no_answer_in_words() -> None:
    (item,) = make_items(suite(items=[{"ask": "who?", "says": ["zantara"], "tools": False}]))
    assert grade(item, Reply(text='<|python_tag|>{"name": "zantara"}')).fault == "a call"
    assert grade(item, Reply(text='[TOOL_CALLS] [{"name": "zantara"}]')).fault == "a call"
