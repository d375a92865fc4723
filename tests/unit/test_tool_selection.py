"""A model is shown what it was judged with: the same tools for the same request, and never one that was not sent."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.runs import write_files
from tuneline.cli.chat import Conversation, Model, hold_conversation
from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.configs.evaluation import Suite
from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.paths import ROOT
from tuneline.endpoints.tool_selection import ToolSelector, load_tool_selector
from tuneline.engines.chat_messages import Answer
from tuneline.engines.providers import Chat, find_provider
from tuneline.stages.evaluate.clients.openai_client import Prompts
from tuneline.stages.evaluate.suites.run_context import RunContext
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.prepare.rendering.tool_preselector import PRESELECTOR_FILE, Preselector

ASKED = "Send Maria a WhatsApp saying that her keys are ready"
STRANGE = {"type": "function", "function": {"name": "coffee__brew", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(ROOT / "configs/tools/business.yaml")


@pytest.fixture(scope="module")
def selector(catalogue: Catalogue) -> ToolSelector:
    return ToolSelector(Preselector.from_catalogue(catalogue), 8)


def names(tools: list[dict[str, Any]]) -> list[str]:
    return [tool["function"]["name"] for tool in tools]


def test_it_shows_what_evaluation_shows(selector: ToolSelector, catalogue: Catalogue, tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"data": {"sources": [{"path": __file__}], "nearest": 8}})
    prepare(tmp_path, recipe, {PRESELECTOR_FILE: json.dumps(selector.preselector.documents)})
    changed = recipe.model_copy(update={"data": recipe.data.model_copy(update={"nearest": 4})})
    (tmp_path / "recipe.json").write_text(changed.model_dump_json())  # by a later command; this run was prepared with 8
    known = RunContext(catalogue, prepared=tmp_path / "prepare", nearest=8)
    suite = Suite.model_validate(
        {"name": "some", "items": [{"ask": [ASKED, "quanto costa il KITAS?", "hi"], "call": "whatsapp.send"}]}
    )
    served, prompts = load_tool_selector(tmp_path), Prompts("", catalogue)
    assert served
    for item in make_items(suite, known):
        judged = prompts.tools(item)
        assert judged and len(judged) == 8
        assert served.select(prompts.messages(item, []), catalogue.openai()) == judged
    prepare(tmp_path / "other", recipe, {})
    assert load_tool_selector(tmp_path / "other") is None


def prepare(run: Path, recipe: Recipe, files: dict[str, str]) -> None:
    settings = recipe.section("data")
    artifacts.make(run / "prepare", stage_version=2, settings=settings, needs={}, build=write_files(files))


def test_it_chooses_among_the_tools_of_the_request(selector: ToolSelector, catalogue: Catalogue) -> None:
    some = catalogue.openai([name for name in catalogue.names if not name.startswith("whatsapp.")])
    shown = selector.select([{"role": "user", "content": ASKED}], some)
    assert len(shown) == 8 and all(tool in some for tool in shown)
    assert selector.select([{"role": "user", "content": ASKED}], some[:8]) == some[:8]


def test_what_the_run_does_not_know_and_what_is_asked_for_stays(selector: ToolSelector, catalogue: Catalogue) -> None:
    choice = {"type": "function", "function": {"name": "kbli__lookup"}}
    messages = [{"role": "user", "content": ASKED}]
    shown = selector.select(messages, [STRANGE, *catalogue.openai()], choice)
    assert len(shown) == 8 and {"whatsapp__send", "coffee__brew", "kbli__lookup"} <= set(names(shown))
    assert "kbli__lookup" not in names(selector.select(messages, catalogue.openai(), "auto"))


def test_the_last_request_counts_in_parts_or_whole(selector: ToolSelector, catalogue: Catalogue) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": ASKED}]}
    before: list[dict[str, Any]] = [{"role": "user", "content": "How much is a KITAS?"}, {"role": "assistant"}]
    result = {"role": "tool", "content": "{}"}
    alone = selector.select([{"role": "user", "content": ASKED}], catalogue.openai())
    assert (
        selector.select([*before, parts, {"role": "assistant", "content": None}, result], catalogue.openai()) == alone
    )


def test_a_chat_shows_them_for_each_question(
    selector: ToolSelector, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[str]] = []

    async def stream(self: Chat, messages: Any, tools: Any = None, **sampling: Any) -> AsyncIterator[Answer]:
        shown.append(names(tools))
        yield Answer("yes", (), (), "stop", 0, 0, 0.0)

    monkeypatch.setattr(Chat, "stream", stream)
    questions = [ASKED, "How much is a KITAS?"]
    model = Model(provider=find_provider("http://127.0.0.1:9"), name="m", catalogue=catalogue, selector=selector)
    hold_conversation(Conversation(model), questions)
    assert shown == [
        names(selector.select([{"role": "user", "content": question}], catalogue.openai())) for question in questions
    ]
    assert shown[0] != shown[1]
