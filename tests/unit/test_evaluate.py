"""What is asked, how answers are kept, and what follows from them."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from tuneline.configs.catalogue import Catalogue, Tool
from tuneline.configs.evaluation import Evaluate, Suite
from tuneline.core.errors import StageFailed
from tuneline.engines.chat_messages import Answer as ProviderAnswer
from tuneline.engines.tool_calls import ToolCall
from tuneline.stages.evaluate.answers import CONCURRENCY, Answer, Reply, read_answers
from tuneline.stages.evaluate.clients import openai_client
from tuneline.stages.evaluate.clients.suite_runner import ask_all
from tuneline.stages.evaluate.clients.target_engines import Engine
from tuneline.stages.evaluate.scoring.baseline_classifier import predict_tools
from tuneline.stages.evaluate.scoring.grading import grade
from tuneline.stages.evaluate.scoring.scoreboard import all_tables
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.evaluate.suites.training_pairs import training_pairs

TEST = Suite(name="unseen", grammar=Path("data/requests/test.yaml"), rows=160, floor=0.9)
TOOLS = Catalogue(tools={"email.send": Tool(description="Send.", parameters={"type": "object", "properties": {}})})
ITEM = Item("unseen-0000", "mail Ana", "email.send", {"to": "Ana"}, "mail _")


def call(name: str = "email.send", **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments or {"to": "Ana"}}


def many(n: int) -> tuple[Item, ...]:
    return tuple(
        Item(f"unseen-{i:04d}", f"request {i}", "email.send", {"to": "Ana"}, f"frame {i % 7}") for i in range(n)
    )


def test_items_repeat_are_unique_and_cover_all_handlers_equally() -> None:
    items = make_items(TEST)
    assert items == make_items(TEST)
    assert len({item.text for item in items}) == len({item.id for item in items}) == 160
    tools = [item.tool for item in items]
    assert {tools.count(tool) for tool in set(tools)} == {10}
    assert make_items(TEST.model_copy(update={"seed": 2})) != items


def test_frames_leave_out_openers_and_closers() -> None:
    frames = {item.phrasing for item in make_items(TEST)}
    assert not any(frame.startswith("kindly ") or frame.endswith(", cheers") for frame in frames)
    assert len(frames) < 160


@pytest.mark.parametrize(
    ("calls", "name", "exact", "valid"),
    [
        ([call()], True, True, True),
        ([call(to="Bob")], True, False, True),
        ([call("docs.create")], False, False, True),
        ([call(), call()], False, False, True),
        ([], False, False, False),
        ([{"name": "email.send", "arguments": None, "raw": "{"}], True, False, False),
    ],
)
def test_judging(calls: list[dict[str, Any]], name: bool, exact: bool, valid: bool) -> None:
    answer = grade(ITEM, Reply(calls))
    assert (answer.name_correct, answer.exact, answer.json_valid) == (name, exact, valid)


def test_a_killed_evaluation_asks_again_only_what_has_no_whole_answer(tmp_path: Path) -> None:
    items, file, asked = many(20), tmp_path / "answers" / "base.jsonl", list[str]()

    async def dies_after_nine(item: Item, before: Any) -> Reply:
        asked.append(item.text)
        if len(asked) > 9:
            raise StageFailed("killed")
        return Reply([call()])

    with pytest.raises(StageFailed, match="killed"):
        asyncio.run(ask_all(items, dies_after_nine, file))
    kept = {answer.id for answer in read_answers(file)}
    with file.open("a") as cut:
        cut.write('{"id": "unseen-0019", "pro')
    asked.clear()

    async def lives(item: Item, before: Any) -> Reply:
        asked.append(item.text)
        return Reply([call()])

    asyncio.run(ask_all(items, lives, file))
    assert 0 < len(kept) < 20 and len(asked) == 20 - len(kept)
    assert [answer.id for answer in sorted(read_answers(file), key=lambda a: a.id)] == [item.id for item in items]
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_no_more_than_four_questions_at_a_time_and_the_first_alone(tmp_path: Path) -> None:
    running, seen = 0, list[int]()

    async def ask(item: Item, before: Any) -> Reply:
        nonlocal running
        running += 1
        seen.append(running)
        await asyncio.sleep(0)
        running -= 1
        return Reply()

    asyncio.run(ask_all(many(30), ask, tmp_path / "a.jsonl"))
    assert seen[:2] == [1, 1] and max(seen) == CONCURRENCY


def answers(right: int, n: int) -> list[Answer]:
    wrong = Reply([call("docs.create")])
    return [grade(item, Reply([call()]) if i < right else wrong) for i, item in enumerate(many(n))]


def test_tables_follow_from_answers() -> None:
    found = {
        ("unseen", "tuned-F16"): answers(98, 100),
        ("unseen", "tuned-Q8_0"): answers(97, 100),
        ("unseen", "tuned-Q4_K_M"): answers(92, 100),
    }
    metrics = all_tables(found, Evaluate(suites=(TEST,)).confidence)
    reference = metrics["scoreboard"][0]
    assert (reference["n"], reference["clusters"], reference["name_accuracy"], reference["json_valid"]) == (
        100,
        7,
        0.98,
        1,
    )
    assert reference["name_low"] < 0.98 < reference["name_high"]
    assert metrics["handlers"][0] == {
        "suite": "unseen", "target": "tuned-F16", "tool": "email.send", "n": 100, "right": 98, "exact": 98
    }  # fmt: skip
    assert metrics["confusions"][0] == {
        "suite": "unseen", "target": "tuned-F16", "expected": "email.send", "got": "docs.create", "count": 2
    }  # fmt: skip
    assert [(row["points"], row["within"]) for row in metrics["loss_in_points"]] == [(1.0, True), (6.0, False)]


def test_classifier_learns_from_prepared_rows(tmp_path: Path) -> None:
    rows = [("write an email to Bo", "email.send"), ("open a new document", "docs.create")] * 5
    lines = [
        {"messages": [{"role": "user", "content": t}, {"role": "assistant", "tool_calls": [ToolCall(n, {}).openai()]}]}
        for t, n in rows
    ]
    lines.append({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]})
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts, tools = training_pairs(file)
    assert len(texts) == 10
    assert predict_tools(texts, tools, [ITEM, Item("x", "email for Ana", "email.send", {}, "")])[1] == "email.send"


class FakeChat:
    """Stands where the network would be."""

    def __init__(self, answer: ProviderAnswer | None = None, status: int | None = None) -> None:
        self.answer, self.status = answer, status

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def ask(self, messages: Any, tools: Any = None, **sampling: Any) -> ProviderAnswer:
        self.asked = messages, tools, sampling
        if self.answer is None:
            error = StageFailed("no answer")
            error.__context__ = None if self.status is None else _Status(self.status)
            raise error
        return self.answer


class _Status(Exception):
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


def reply_of(chat: FakeChat, monkeypatch: pytest.MonkeyPatch) -> Reply:
    monkeypatch.setattr(openai_client, "find_provider", lambda url: SimpleNamespace(connect=lambda model, **_: chat))

    async def ask() -> Reply:
        async with openai_client.connect_engine(
            Engine("http://x/v1", "base", {"cache_prompt": True}, 500), "Be brief.", TOOLS
        ) as ask_one:
            return await ask_one(ITEM, [])

    return asyncio.run(ask())


def test_asks_as_it_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = FakeChat(ProviderAnswer("", (ToolCall("email.send", {"to": "Ana"}),), (), "tool_calls", 9, 7, 0.1))
    assert reply_of(chat, monkeypatch) == Reply([call()], "", 7, 0.1, prompt_tokens=9)
    messages, tools, sampling = chat.asked
    assert messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "mail Ana"}]
    assert tools and sampling["temperature"] == 0 and sampling["max_tokens"] == 96


def test_malformed_arguments_keep_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = ({"function": {"name": "email__send", "arguments": '{"to"'}},)
    reply = reply_of(FakeChat(ProviderAnswer("", (), raw, "stop", 9, 7, 0.1)), monkeypatch)
    assert reply.calls == [{"name": "email.send", "arguments": None, "raw": '{"to"'}]


def test_an_unreadable_answer_is_wrong_and_a_dead_server_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reply_of(FakeChat(status=500), monkeypatch).error
    for status in (503, None):
        with pytest.raises(StageFailed):
            reply_of(FakeChat(status=status), monkeypatch)
