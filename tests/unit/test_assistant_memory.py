"""What an assistant keeps: conversations within a budget of tokens, summaries, memory of each owner."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.assistant_runs import assistant, collect, write_handlers
from tests.scripted_model import ScriptedModel, results, serve_script
from tuneline.core.errors import BadRequest, Locked, NotFound
from tuneline.endpoints.assistant.events import Done, Event, Limits, Waiting
from tuneline.endpoints.assistant.store import Store
from tuneline.endpoints.assistant.trace import read_trace


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Path]:
    yield from write_handlers(tmp_path)


def test_conversations_survive_restarts_and_are_bounded_and_deleted(module: Path, tmp_path: Path) -> None:
    def count(request: Any) -> str:
        return f"heard {sum(message['role'] == 'user' for message in request['messages'])}"

    async def turns(model: ScriptedModel, conversation: str | None, number: int) -> Done:
        async with assistant(module, model, tmp_path, limits=Limits(history_tokens=200)) as (answering, store):
            for turn in range(number):
                events = await collect(answering.ask("ann", f"question {turn} {'x' * 50}", conversation))
                assert isinstance(events[-1], Done)
                conversation = events[-1].conversation
            assert conversation and store.conversations("ann") == [conversation] and store.conversations("eve") == []
            return events[-1]

    with serve_script(count) as model:
        first = asyncio.run(turns(model, None, 1))
        last = asyncio.run(turns(model, first.conversation, 1))
        assert last.text.strip() == "heard 2"
        last = asyncio.run(turns(model, first.conversation, 12))
    heard = int(last.text.split()[1])
    assert 2 <= heard <= 6  # of 14: the oldest turns are dropped
    store = Store(tmp_path / "assistant.db")
    assert len(store.messages("ann", first.conversation)) <= 2 * heard
    assert store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with pytest.raises(Locked):
        store.append("ann", first.conversation, 0, [{"role": "user", "content": "late"}])
    store.delete_conversation("ann", first.conversation)
    assert store.conversations("ann") == []
    store.close()


def test_no_id_looks_like_an_option(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path / "assistant.db")) as store:
        assert not any(store.open_conversation("ann", None).startswith("-") for _ in range(300))


def test_memory_is_each_owners_own(tmp_path: Path) -> None:
    def script(request: Any) -> Any:
        fact = {"person": "Bob", "fact": "likes tea"}
        if "remember" in request["messages"][-1]["content"]:
            return [("memory__store", fact)]
        return "; ".join(results(request)) if results(request) else [("memory__recall", {"person": "bob"})]

    async def go(model: ScriptedModel) -> list[str]:
        texts = []
        async with assistant("tuneline.endpoints.assistant.memory", model, tmp_path) as (answering, store):
            for owner, question in (("ann", "remember"), ("ann", "what?"), ("eve", "what?")):
                end = (await collect(answering.ask(owner, question)))[-1]
                assert isinstance(end, Done)
                texts.append(end.text.strip())
            assert store.forget("ann") == 2 and store.recall("ann", "Bob") == []
        return texts

    with serve_script(script) as model:
        assert asyncio.run(go(model)) == ["stored", '["likes tea"]', "[]"]


def test_the_oldest_turns_are_summarised_where_that_is_set(module: Path, tmp_path: Path) -> None:
    def say(request: Any) -> Any:
        text = request["messages"][-1]["content"]
        if text.startswith("Summarise"):
            return "Ann likes tea; call rates.get."
        return [("rates__get", {"currency": "IDR"})] if text == "rate?" else f"noted <|eot_id|>{'.' * 200}"

    async def talk(memory: Any) -> tuple[list[Event], list[dict[str, Any]]]:
        folder = tmp_path / memory
        async with assistant(module, model, folder, limits=Limits(history_tokens=200, memory=memory)) as (it, store):
            conversation = None
            for number in range(5):
                question = "My name is Ann" if number == 0 else "rate?" if number == 4 else f"fact {number}"
                events = [event async for event in it.ask("me", question, conversation)]
                conversation = next(event.conversation for event in events if isinstance(event, Done))
            assert conversation
            store.delete_conversation("me", conversation)
            with pytest.raises(NotFound):
                store.summary("me", conversation)
        return events, read_trace(folder, conversation)

    with serve_script(say) as model:
        events, steps = asyncio.run(talk("summarise"))
        asked = [request["messages"] for request in model.requests]
        first = next(messages[0]["content"] for messages in asked if messages[-1]["content"].startswith("Summarise"))
        assert "user: My name is Ann" in first and "<|eot_id|>" not in first  # dropped turns are data
        again = [m[0]["content"] for m in asked if m[-1]["content"].startswith("Summarise")][-1]
        assert "Ann likes tea" in again  # the one before is in the next
        assert asked[-1][0]["content"].endswith("Ann likes tea; call rates.get.")
        assert [event.pending.name for event in events if isinstance(event, Waiting)] == ["rates.get"]  # named there
        [label] = {name for step in steps if step["kind"] == "summary" for name in step["prompts"]}
        assert label == "summary.v1" and {step["dropped_messages"] for step in steps if step["kind"] == "summary"} == {
            2
        }
        model.requests.clear()
        events, steps = asyncio.run(talk("drop"))
        assert not any(
            m["content"].startswith("Summarise") for r in model.requests for m in r["messages"] if m["content"]
        )
        assert not [step for step in steps if step["kind"] == "summary"]


def test_nothing_is_dropped_if_the_model_cannot_summarise_it(module: Path, tmp_path: Path) -> None:
    async def talk() -> None:
        limits = Limits(history_tokens=60, memory="summarise")
        async with assistant(module, model, tmp_path, limits=limits) as (it, store):
            [*_, done] = [event async for event in it.ask("me", "x" * 400)]
            with pytest.raises(BadRequest, match="no summary"):
                [event async for event in it.ask("me", "and?", done.conversation)]
            assert [message["content"][:1] for message in store.messages("me", done.conversation)] == ["x", "w"]

    def say(request: Any) -> Any:
        return "well"

    with serve_script(say) as model:
        model.refuses = lambda request: "no summary" if "Summarise" in request["messages"][-1]["content"] else None
        asyncio.run(talk())
