"""Models elsewhere: the same suites within a budget told first, what was paid for kept, the key from nowhere else."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from tuneline.configs.evaluation import Target
from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import artifacts
from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.events import Events, read_events
from tuneline.core.paths import ROOT
from tuneline.engines.chat_messages import Answer
from tuneline.engines.providers import Provider
from tuneline.stages.evaluate import stage_settings
from tuneline.stages.evaluate.answers import read_answers
from tuneline.stages.evaluate.clients import external_targets
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.run_context import RunContext
from tuneline.stages.plan.stage_bounds import bound_stages

PAID = {"usd_per_million_input": 2.0, "usd_per_million_output": 10.0, "budget_usd": 0.05}
ITEMS = [
    Item(f"a-{i}", f"request {i}", None, None, f"request {i}", says=("ok",), offers_tools=False) for i in range(12)
]


class Remote:
    """Stands where the network would be, and counts."""

    provider = Provider("openai", "https://api.example/v1", "OPENAI_API_KEY")

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def ask(self, messages: Any, tools: Any = None, **sampling: Any) -> Answer:
        await asyncio.sleep(0)
        self.asked.append({"messages": messages, "tools": tools, **sampling})
        return Answer("ok", (), (), "stop", 1000, 100, 0.2)


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Remote:
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path / "cache"))
    found = Remote()
    provider = SimpleNamespace(connect=lambda model: found, read_key=lambda: "key")
    monkeypatch.setattr(external_targets, "find_provider", lambda *_: provider)
    return found


def recipe(**target: Any) -> Recipe:
    read = load_recipe(ROOT / "configs/recipes/micro.yaml")
    given = Target.model_validate({"name": "closed", "provider": "openai", "model": "m", **PAID, **target})
    return read.model_copy(update={"evaluate": read.evaluate.model_copy(update={"targets": (given,)})})


def ask(recipe: Recipe, folder: Path, items: list[Item] = ITEMS) -> list[str]:
    events = Events(folder, "evaluate")
    external_targets.ask_external_targets(recipe, RunContext(), {"a": items}, folder, events)
    return [event["text"] for event in read_events(folder) if event["kind"] == "note"]


def test_the_same_items_are_answered_and_what_they_cost_is_kept(remote: Remote, tmp_path: Path) -> None:
    (told,) = ask(recipe(), tmp_path / "run")
    answers = read_answers(tmp_path / "run/answers/a/closed.jsonl")
    assert len(answers) == 12 and all(a.name_correct and a.tokens == 100 and a.prompt_tokens == 1000 for a in answers)
    assert sum(a.cost_usd for a in answers) == pytest.approx(12 * 0.003)
    assert "12 requests to m at openai" in told and "USD at most, never more than 0.05" in told
    assert remote.asked[0]["max_tokens"] == 96 and remote.asked[0]["temperature"] == 0
    assert "extra_body" not in remote.asked[0]


def test_a_repeated_request_costs_nothing_in_another_run_too(remote: Remote, tmp_path: Path) -> None:
    ask(recipe(), tmp_path / "one")
    ask(recipe(), tmp_path / "one")
    ask(recipe(), tmp_path / "two")
    assert len(remote.asked) == 12
    again = read_answers(tmp_path / "two/answers/a/closed.jsonl")
    assert len(again) == 12 and sum(a.cost_usd for a in again) == 0
    ask(recipe(sampling={"temperature": 1}), tmp_path / "three")
    assert len(remote.asked) == 24, "another request is another request"


def test_no_request_is_sent_that_could_go_over_the_budget(remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"closed: 0\.0\d+ of budget_usd 0\.02 has been spent.*raise it"):
        ask(recipe(budget_usd=0.02), tmp_path)
    kept = read_answers(tmp_path / "answers/a/closed.jsonl")
    assert 0 < len(kept) == len(remote.asked) < 12
    ask(recipe(), tmp_path)
    assert len(remote.asked) == 12, "what was answered is not asked again"


def test_an_endpoint_of_ones_own_is_free_and_remembers_nothing(remote: Remote, tmp_path: Path) -> None:
    free = {"usd_per_million_input": 0, "usd_per_million_output": 0, "budget_usd": 0}
    assert ask(recipe(**free), tmp_path / "one") == []
    ask(recipe(**free), tmp_path / "two")
    assert len(remote.asked) == 24, "its model may be another by now"


def test_a_later_turn_is_counted_with_what_may_come_before_it(remote: Remote, tmp_path: Path) -> None:
    alone = [replace(item, conversation=i) for i, item in enumerate(ITEMS[:2])]
    talk = [ITEMS[0], replace(ITEMS[1], turn=1)]
    most = [float(ask(recipe(), tmp_path / name, items)[0].split(", ")[1].split()[0]) for name, items in
            (("a", alone * 6), ("b", talk * 6))]  # fmt: skip
    assert most[1] > most[0] > 0


def test_the_key_must_be_there_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadRequest, match="OPENAI_API_KEY is not set"):
        ask(recipe(), tmp_path)
    assert not (tmp_path / "answers").exists()


def test_the_plan_counts_the_budget_and_the_fingerprint_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap, dear = recipe(), recipe(budget_usd=7, key_variable="OTHER")
    before, after = (bound_stages(r, ("evaluate",))[0].usd_at_most for r in (cheap, dear))
    assert after - before == pytest.approx(6.95)
    keys = [artifacts.flatten(stage_settings(r)) for r in (cheap, dear)]
    assert keys[0] == keys[1] != artifacts.flatten(stage_settings(recipe(model="other")))
    assert "OPENAI" not in json.dumps(keys)


def test_a_paid_model_needs_a_budget() -> None:
    with pytest.raises(ValueError, match="budget_usd: required for a paid model"):
        recipe(budget_usd=0)
