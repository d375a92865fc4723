"""Tasks of requests that name none: recognised by their words, `other` when unsure, with the accuracy told."""

import json
import random
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.unit.misbehaving import MisbehavingUpstream, running, serving, target
from tests.unit.test_gateway_app import run
from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.gateway import Recognition, read_gateway
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT
from tuneline.endpoints.gateway.settings_file import SettingsFile
from tuneline.endpoints.gateway.task_classifier import TaskClassifier

WORDS = {
    "pricing": ("how much is {} for {} people", "price of {} with {} seats please", "what does {} cost for {}"),
    "booking": ("book {} on day {}", "reserve a table at {} for {}", "I would like to come to {} with {} friends"),
}
THINGS = ("the villa", "lunch", "a surf lesson", "the spa", "dinner", "the boat", "a massage", "the yoga class")


def write_examples(folder: Path, task: str, rows: int = 60) -> Path:
    rng = random.Random(task)
    texts = [rng.choice(WORDS[task]).format(rng.choice(THINGS), rng.randrange(99)) for _ in range(rows)]
    chats = [[{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}] for text in texts]
    file = folder / f"{task}.jsonl"
    file.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return file


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    examples = {task: [str(write_examples(tmp_path, task))] for task in WORDS}
    return write(tmp_path, {"examples": examples})


def write(folder: Path, recognition: dict[str, Any], **more: Any) -> Path:
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump({"tasks": [*WORDS], "recognition": recognition} | more))
    return file


def test_a_task_is_recognised_named_tasks_win_and_the_unsure_are_other(settings: Path) -> None:
    read = SettingsFile(settings)
    asked = {
        "price of the spa with 3 seats": "pricing",
        "reserve the boat on day 4": "booking",
        "zxq": "other",
        "": "other",
    }
    assert {text: read.recognize(text) for text in asked} == asked
    content = yaml.safe_load(settings.read_text("utf-8"))
    with running(MisbehavingUpstream({})) as upstream:
        models = {"m": {"baseline": target(upstream, "m", response_s=5)}}
        settings.write_text(yaml.safe_dump(content | {"models": models}), "utf-8")
        with serving(settings) as (url, _), httpx2.Client(base_url=url, timeout=10) as client:
            parts = [{"type": "text", "text": "how much is lunch"}, {"type": "text", "text": "for 9 people"}]
            for headers, more in (({}, {}), ({"x-tuneline-task": "booking"}, {}), ({"x-tuneline-task": "unheard"}, {}),
                                  ({}, {"metadata": {"task": "booking"}})):  # fmt: skip
                body = {"model": "m", "messages": [{"role": "user", "content": parts}]} | more
                assert client.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
    lines = [
        json.loads(line)
        for file in settings.parent.glob("logs/requests/*")
        for line in file.read_text("utf-8").splitlines()
    ]
    assert [line["task"] for line in lines] == ["pricing", "booking", "other", "booking"]
    shown = run("traffic", "tasks", "--settings", str(settings))
    assert "pricing" in shown and "100.0%" in shown


def test_too_few_examples_and_a_missing_file_are_refused_and_change_nothing(settings: Path, tmp_path: Path) -> None:
    read, content = SettingsFile(settings), yaml.safe_load(settings.read_text("utf-8"))
    (tmp_path / "few").mkdir()
    few = str(write_examples(tmp_path / "few", "booking", 5))
    for wrong, message in (([few], "5 requests"), ([str(tmp_path / "none.jsonl")], "none.jsonl")):
        examples = content["recognition"]["examples"] | {"booking": wrong}
        write(tmp_path, {"examples": examples})
        with pytest.raises(BadRecipe, match=message):
            TaskClassifier(read_gateway(settings).recognition)
        assert not read.refresh() and message in read.mistake
        assert read.recognize("reserve the boat on day 4") == "booking"
    with pytest.raises(BadRecipe, match="two tasks"):
        read_gateway(write(tmp_path, {"examples": {"booking": [few]}}))
    with pytest.raises(BadRecipe, match="not among"):
        read_gateway(write(tmp_path, {"examples": {"booking": [few], "x": [few]}}))


def test_accuracy_is_of_requests_that_were_not_learned(tmp_path: Path) -> None:
    """Equal texts stay on one side: of labels by chance, nothing is recognised well however often each is repeated."""
    rng = random.Random(3)
    texts = ["".join(rng.choices("abcdefgh ", k=30)) for _ in range(40)]
    for number, task in enumerate(WORDS):
        rows = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "y"}]}
                for text in texts[number::2] for _ in range(5)]  # fmt: skip
        (tmp_path / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = {task: (tmp_path / f"{task}.jsonl",) for task in WORDS}
    qualities = TaskClassifier(Recognition(examples=examples, least_confidence=0.5)).measure()
    assert sum(quality.right for quality in qualities) < 0.75 * sum(quality.examples for quality in qualities)


TOOLS = {
    "messages": ["whatsapp.*", "telegram.*", "sms.*", "email.*", "instagram.*"],
    "permits": ["visa.*", "license.*", "kbli.*"],
    "other": ["analytics.*", "docs.*"],
}


def test_tasks_are_learned_from_a_catalogue_of_tools() -> None:
    catalogue = ROOT / "configs" / "tools" / "business.yaml"
    classifier = TaskClassifier(Recognition.model_validate({"catalogue": str(catalogue), "tools": TOOLS}))
    known, unknown = [], []
    for name, tool in load_catalogue(catalogue).tools.items():
        tasks = [task for task, patterns in TOOLS.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]
        for phrases in tool.phrases.values() if tasks else ():
            for said, texts in ((known, phrases.say), (unknown, phrases.ask)):
                words = [re.sub(r"\{\w+\}", "Ana", text) for text in texts]
                said += [(tasks[0], classifier.recognize(text)) for text in words]
    assert len(known) > 60 and sum(task == said for task, said in known) > 0.9 * len(known)
    # Phrases unlike all that it has learned are `other` rather than another task.
    assert len(unknown) > 60 and sum(said not in (task, "other") for task, said in unknown) < 0.05 * len(unknown)


def test_tools_that_do_not_fit_are_named(tmp_path: Path) -> None:
    catalogue = str(ROOT / "configs" / "tools" / "business.yaml")
    for wrong, says in (
        ({"tools": TOOLS}, "give both"),
        ({"catalogue": catalogue, "tools": {"pricing": ["sms.*"]}}, "of two tasks"),
        ({"catalogue": catalogue, "tools": {"pricing": ["sms.*"], "other": ["fax.*"]}}, "'fax.*': no such tool"),
        ({"catalogue": "nowhere.yaml", "tools": {"pricing": ["sms.*"], "other": ["*"]}}, "nowhere.yaml"),
        (
            {"catalogue": catalogue, "tools": {"messages": ["sms.*"], "other": ["docs.*"]}},
            "messages: not among `tasks`",
        ),
    ):
        with pytest.raises(BadRecipe, match=re.escape(says)):
            SettingsFile(write(tmp_path, wrong))
