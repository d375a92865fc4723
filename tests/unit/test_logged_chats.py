"""Logged chats as a suite: the last assistant turn is the right answer, and what came before it is sent as it was."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.evaluation import Evaluate, Suite
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT
from tuneline.stages.evaluate.answers import IN_WORDS, Reply, expected_label
from tuneline.stages.evaluate.clients.openai_client import Prompts
from tuneline.stages.evaluate.scoring.grading import grade
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.run_context import RunContext
from tuneline.stages.evaluate.suites.suite_items import make_items

CATALOGUE = load_catalogue(ROOT / "configs/tools/handlers.yaml")
ASK = {"role": "user", "content": "Tell Ana that I am late"}
CALL = {"type": "function", "function": {"name": "whatsapp__send", "arguments": {"to": "Ana", "message": "late"}}}
CALLS = {"role": "assistant", "tool_calls": [CALL]}
DONE = [{"role": "tool", "content": "ok"}, {"role": "assistant", "content": "Done, Ana knows."}]
LABEL = [{"role": "user", "content": "spam or ham?"}, {"role": "assistant", "content": "Spam"}]


def items_of(folder: Path, *chats: list[dict[str, Any]], **settings: Any) -> tuple[Item, ...]:
    file = folder / "Held out.jsonl"
    file.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    (suite,) = Evaluate.model_validate({"suites": [{"path": str(file), **settings}]}).suites
    assert suite.name == "held_out"
    return make_items(suite, RunContext(CATALOGUE))


def test_a_call_is_right_by_name_and_exact_by_its_arguments(tmp_path: Path) -> None:
    (item,) = items_of(tmp_path, [ASK, CALLS])
    right = Reply(calls=[{"name": "whatsapp.send", "arguments": {"to": "Ana", "message": "late"}}])
    other = Reply(calls=[{"name": "whatsapp.send", "arguments": {"to": "Bo", "message": "late"}}])
    assert (grade(item, right).name_correct, grade(item, right).exact) == (True, True)
    assert (grade(item, other).name_correct, grade(item, other).exact) == (True, False)
    assert not grade(item, Reply(text="I told her")).name_correct


def test_the_log_is_sent_as_it_was_and_the_system_message_of_the_recipe_is_added(tmp_path: Path) -> None:
    own = {"role": "system", "content": "Be brief."}
    plain, with_system = items_of(tmp_path, [ASK, CALLS, *DONE], [own, *LABEL])
    sent = Prompts("House rules.", CATALOGUE).messages(plain, [])
    assert [turn["role"] for turn in sent] == ["system", "user", "assistant", "tool"]
    assert [call["function"] for call in sent[2]["tool_calls"]] == [CALL["function"]] and plain.text == ASK["content"]
    assert Prompts("House rules.", CATALOGUE).messages(with_system, [])[0] == own


def test_an_answer_in_words_must_have_the_words_of_the_log_or_be_as_similar_as_the_suite_says(tmp_path: Path) -> None:
    (label,) = items_of(tmp_path, LABEL)
    assert grade(label, Reply(text="spam.")).name_correct
    (emoji,) = items_of(tmp_path, [LABEL[0], {"role": "assistant", "content": "👍"}])
    assert grade(emoji, Reply(text="👍 ")).name_correct and not grade(emoji, Reply(text="!")).name_correct
    wrong = grade(label, Reply(text="ham"))
    assert not wrong.name_correct and wrong.fault == "not the logged answer" and expected_label(wrong) == IN_WORDS
    (_, similar) = items_of(tmp_path, LABEL, [ASK, CALLS, *DONE], min_chrf=60)
    assert grade(similar, Reply(text="Done, and Ana knows it.")).name_correct
    assert "chrF" in str(grade(similar, Reply(text="I could not reach her.")).fault)


def test_an_answer_may_be_longer_than_the_logged_one(tmp_path: Path) -> None:
    story = {"role": "assistant", "content": "once upon a time " * 100}
    (item,) = items_of(tmp_path, [ASK, story])
    assert item.max_tokens > len(story["content"]) / 3


def test_a_chat_with_errors_and_a_tool_the_run_lacks_are_named_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=r"Held out.jsonl:2: .*the last message must be the assistant's"):
        items_of(tmp_path, LABEL, [ASK])
    own = {"type": "function", "function": {"name": "lamp.off", "parameters": {"type": "object", "properties": {}}}}
    (tmp_path / "own.jsonl").write_text(json.dumps({"messages": LABEL, "tools": [own]}) + "\n")
    own_suite = Suite(name="own", path=tmp_path / "own.jsonl")
    with pytest.raises(BadRecipe, match="own.jsonl:1: tool 'lamp.off' is not among the run's"):
        make_items(own_suite, RunContext(CATALOGUE, prepared=tmp_path))
    assert make_items(own_suite, RunContext(CATALOGUE))  # training rows may bring it
