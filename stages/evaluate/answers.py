"""What a model answered: `Reply` as it came back, `Answer` once it is graded, and the files answers are kept in.

`evaluate/answers/SUITE/TARGET.jsonl` has one `Answer` per line, in the order in which the engine finished them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneline.core import jsonl

CONCURRENCY = 4
"""Requests sent to one target at a time."""

NO_TOOL = "no tool"
"""`expected_label` of a request that no tool fits."""

IN_WORDS = "in words"
"""`expected_label` of a request that is answered in text: with facts, a price, a language or a style."""

PARALLEL = "parallel calls"
"""`expected_label` of a request that takes several calls at once."""


@dataclass(frozen=True)
class Reply:
    """What a model returned for one item: tool calls, text, token counts and cost."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    """Tool calls as `name` (dotted) and `arguments`, which is None where they were not a JSON object."""
    text: str = ""
    tokens: int = 0
    """Completion tokens."""
    latency_s: float = 0.0
    error: str | None = None
    """Why the server could not parse the model's output."""
    prompt_tokens: int = 0
    cut: bool = False
    """Whether generation stopped at `max_tokens`."""
    cost_usd: float = 0.0


@dataclass(frozen=True)
class Answer:
    """One line of an answers file: the item, the model's reply, and whether it was right."""

    id: str
    prompt: str
    expected: dict[str, Any]
    phrasing: str
    calls: list[dict[str, Any]]
    text: str
    name_correct: bool
    exact: bool
    json_valid: bool
    tokens: int
    latency_s: float
    error: str | None = None
    fault: str | None = None
    """What is wrong with an answer in text."""
    prompt_tokens: int = 0
    cost_usd: float = 0.0
    language: str | None = None
    """Language of the request, where a suite has several."""
    about: dict[str, Any] = field(default_factory=dict)
    """Position in a conversation (`turn`, `talk`) or in a long text (`length`, `depth`)."""
    measures: dict[str, Any] = field(default_factory=dict)
    """Measurements that are neither right nor wrong, such as the distance from a style."""

    @property
    def got(self) -> str:
        """The tool that was called, or what the model did instead."""
        if len(self.calls) == 1:
            return str(self.calls[0]["name"])
        if self.fault and not self.calls:
            return self.fault
        return f"{len(self.calls)} calls" if self.calls else "no call"


def expected_label(answer: Answer) -> str:
    """Return the label of the expected answer: the name of the tool, or `PARALLEL`, `IN_WORDS` or `NO_TOOL`."""
    return str(answer.expected["name"] or answer.expected.get("kind", NO_TOOL))


def answer_text(answer: Answer) -> str:
    """Return an answer as people read it: its text, its calls as `name({...})`, or its error."""
    calls = [f"{call['name']}({json.dumps(call['arguments'], ensure_ascii=False)})" for call in answer.calls]
    return "\n".join([*([answer.text] if answer.text else []), *calls]) or answer.error or "(nothing)"


def answers_file(folder: Path, suite: str, target: str) -> Path:
    """Return the path of a target's answers to a suite, below the folder of an evaluation."""
    return folder / "answers" / suite / f"{target}.jsonl"


def read_answers_of(folder: Path, suite: str, target: str, ids: Iterable[str]) -> list[Answer]:
    """Return a target's answers to a suite in the order of `ids`.

    Answers are written as the engine finishes them; tables must not depend on that order.
    """
    by_id = {answer.id: answer for answer in read_answers(answers_file(folder, suite, target))}
    return [by_id[item_id] for item_id in ids]


def read_answers(file: Path) -> list[Answer]:
    """Return the answers in a file, the last one per item; a line that a crash cut off is removed from the file."""
    jsonl.remove_cut_line(file)
    answers = [Answer(**record) for record in jsonl.read(file)]
    return list({answer.id: answer for answer in answers}.values())
