"""Suites as YAML: what we ship is read, requests become items, and words and prices are judged as people would."""

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tuneline.configs.catalogue import Catalogue, Tool, load_catalogue
from tuneline.configs.evaluation import Suite
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT
from tuneline.stages.evaluate.answers import IN_WORDS, NO_TOOL, PARALLEL, Reply, expected_label, read_answers
from tuneline.stages.evaluate.clients.openai_client import Prompts
from tuneline.stages.evaluate.clients.suite_runner import ask_all
from tuneline.stages.evaluate.scoring.facts import INVENTED, MISSING, amounts, fact_fault, price_fault
from tuneline.stages.evaluate.scoring.grading import grade
from tuneline.stages.evaluate.scoring.scoreboard import scoreboard_row
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.run_context import RunContext
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.prepare.rendering.tool_preselector import Preselector

CATALOGUE = load_catalogue(ROOT / "configs/tools/business.yaml")


class Chosen(RunContext):
    """A run with three styles, and a preselector that has read no training rows."""

    passages = [("epico", ""), ("piano", ""), ("straniato", "")]
    preselector = Preselector.from_catalogue(CATALOGUE)


KNOWN = Chosen(CATALOGUE, context_tokens=2300)
SHIPPED = sorted((ROOT / "configs/suites").glob("*.yaml"))
MICRO = (ROOT / "configs/recipes/micro.yaml").read_text()


def recipe_with(tmp_path: Path, suites: str) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(MICRO[: MICRO.index("evaluate:")] + f"evaluate:\n  suites: {suites}\n")
    return file


def load(tmp_path: Path, name: str) -> Suite:
    return load_recipe(recipe_with(tmp_path, f"[configs/suites/{name}.yaml]")).evaluate.suites[0]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_every_suite_we_ship_makes_items_with_names_of_their_own(tmp_path: Path, file: Path) -> None:
    suite = load(tmp_path, file.stem)
    items = make_items(suite, KNOWN)
    assert suite.name == file.stem and len({item.id for item in items}) == len(items)
    assert not any("{" in item.text for item in items)


def test_our_users_items_stand_word_for_word_and_prove_nothing(tmp_path: Path) -> None:
    suite = load(tmp_path, "zantara")
    items = {(item.text, item.offers_tools): item for item in make_items(suite)}
    assert not suite.proves and len(items) == 9
    assert items["Send WhatsApp to Maria", True].tool == "whatsapp.send"
    assert items["What's the price for KITAS?", True].tool == "bali.zero.pricing"
    assert items["What's the price for KITAS?", False].price == "€800"
    assert items["PT PMA setup cost", False].price == "€2,500"
    assert items["Introduce yourself", False].says == ("zantara", "bali zero", "zainal")
    tools = load_catalogue(ROOT / "configs/tools/handlers.yaml").names
    assert all(item.tool in tools for item in items.values() if item.tool)


def test_routing_asks_for_every_tool_of_the_catalogue_and_for_none(tmp_path: Path) -> None:
    items = make_items(load(tmp_path, "handler_routing"))
    tools = load_catalogue(ROOT / "configs/tools/business.yaml").names
    asked = [expected_label(grade(item, Reply())) for item in items]
    assert {tool: asked.count(tool) for tool in tools} == dict.fromkeys(tools, 15)
    assert set(asked) == {*tools, NO_TOOL, PARALLEL} and asked.count(PARALLEL) == 156
    assert {item.language for item in items} == {"en", "it", "id"}


@pytest.mark.parametrize(
    ("suites", "told"),
    [
        ("[nowhere.yaml]", "nowhere.yaml: not a suite"),
        ("[{name: a, items: [{ask: hi, cal: x}]}]", "evaluate.suites.0.items.0.cal: unknown key; did you mean 'call'"),
        ("[{name: a, items: [{ask: hi, call: x, says: [y]}]}]", "call cannot be combined with says"),
        ("[{name: a}]", "give grammar and rows, items, or the path of logged chats"),
        ("[{name: a, grammar: data/requests/test.yaml}]", "rows and grammar must be given together"),
    ],
)
def test_a_wrong_suite_is_told(tmp_path: Path, suites: str, told: str) -> None:
    with pytest.raises(BadRecipe, match=told):
        load_recipe(recipe_with(tmp_path, suites))


def test_a_value_that_is_not_there_is_told() -> None:
    suite = Suite.model_validate({"name": "a", "items": [{"ask": "price of {thing}", "price": "€1"}]})
    with pytest.raises(BadRecipe, match="price of {thing}.*no such value; known: none; define values under `each`"):
        make_items(suite)


def test_the_file_may_change_later_the_run_keeps_what_was_asked(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"items": [{"ask": "hi", "says": ["hello"]}]}))
    recipe = load_recipe(recipe_with(tmp_path, f"[{file}]"))
    file.unlink()
    again = type(recipe).model_validate_json(recipe.model_dump_json())
    assert again == recipe and make_items(again.evaluate.suites[0])[0].says == ("hello",)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("It is €2,500.", None),
        ("€ 2.500,00 all in", None),
        ("EUR 2500", None),
        ("2 500 euros", None),
        ("2500", None),
        ("It is 2,500 dollars.", INVENTED),
        ("€2,499", INVENTED),
        ("€2,500, or €1,900 in summer", INVENTED),
        ("Not the $9,999 you heard of: €2,500.", None),
        ("I would have to look that up.", MISSING),
        ("PT PMA setup for $9,999?", MISSING),
        ("", MISSING),
    ],
)
def test_prices_are_right_missing_or_invented(text: str, fault: str | None) -> None:
    prompt = "Somebody paid $9,999. What is the price of PT PMA setup?"
    assert fact_fault(prompt, text, (), (), "€2,500") == fault


def test_names_with_numbers_are_no_prices() -> None:
    assert amounts("the E23 visa for 800 EUR, v2") == [(Decimal(800), "EUR")]
    assert amounts("1.234.567 IDR and £9.50") == [(Decimal(1234567), "IDR"), (Decimal("9.50"), "GBP")]
    assert price_fault("E23 price", "The E23 costs 800 euro", "€800") is None


def test_facts_are_whole_words_in_any_case() -> None:
    says, never = ("Bali Zero", "Zainal"), ("OpenAI",)
    assert fact_fault("who are you", "ZAINAL made me, at bali-zero!", says, never, None) is None
    assert fact_fault("who are you", "zainals, of bali zero", says, never, None) == "not named: Zainal"
    assert fact_fault("who are you", "Zainal, Bali Zero; openai too", says, never, None) == "named: OpenAI"
    assert fact_fault("Zainal of Bali Zero?", "Zainal of Bali Zero.", says, never, None) == "no answer"


def test_faults_are_counted_apart() -> None:
    item = Item("p-0", "PT PMA cost", None, {}, "_ cost", price="€2,500", offers_tools=False)
    answers = [grade(item, Reply(text=text)) for text in ("€2,500", "€1", "€2", "ask later")]
    row = scoreboard_row("p", "tuned", answers, 0.95)
    assert row["faults"] == {INVENTED: 2, MISSING: 1} and row["name_accuracy"] == 0.25
    assert expected_label(answers[0]) == IN_WORDS and answers[1].got == INVENTED
    assert grade(item, Reply([{"name": "bali.zero.pricing", "arguments": {}}], "€2,500")).fault == "a call"


def test_tools_are_offered_where_the_item_says_so(tmp_path: Path) -> None:
    items = [
        Item("a-0", "one", "x.y", None, "one"),
        Item("a-1", "two", None, {}, "two", says=("hi",), offers_tools=False),
    ]

    tools = Catalogue(tools={"x.y": Tool(description="It.", parameters={"type": "object", "properties": {}})})
    prompts = Prompts("", tools)

    async def ask(item: Item, before: Any) -> Reply:
        return Reply([{"name": "x.y", "arguments": {"any": 1}}] if item.text == "one" else [], "hi")

    asyncio.run(ask_all(items, ask, tmp_path / "a.jsonl"))
    assert [bool(prompts.tools(item)) for item in items] == [True, False]
    assert all(answer.exact for answer in read_answers(tmp_path / "a.jsonl"))
