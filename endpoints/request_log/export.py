"""Training rows from the request log: what was said, where the settings had it written, with what people said of it."""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.recipe import Recipe
from tuneline.core.redaction import redact
from tuneline.endpoints.request_log.follower import LogFollower
from tuneline.stages.early_checks import list_test_questions
from tuneline.stages.prepare.checks.overlap import normalize_question
from tuneline.stages.prepare.checks.personal_data import mask_sensitive
from tuneline.stages.prepare.checks.test_questions import FEWEST_WORDS

GOOD = 0.5
"""Ratings above it are good."""


@dataclass(frozen=True)
class Selection:
    """Which requests are exported."""

    model: str = ""
    task: str = ""
    rating: str = ""
    """`good`, `bad`, or empty: rated or not."""
    corrected: bool = False
    """Only those with a correction."""


def read_requests(logs: Path) -> dict[str, dict[str, Any]]:
    """Return id → a caller's request, with `value` and `correction` of its last feedback."""
    requests: dict[str, dict[str, Any]] = {}
    feedback = []
    for record in LogFollower(logs).poll():
        if record.get("kind") == "feedback":
            feedback.append(record)
        elif not record.get("shadow_of"):
            requests[record["id"]] = record
    for record in sorted(feedback, key=lambda record: str(record.get("at"))):
        if request := requests.get(record.get("id", "")):
            request |= {name: record[name] for name in ("value", "correction") if record.get(name) is not None}
    return requests


def make_rows(logs: Path, selection: Selection) -> Iterator[dict[str, Any]]:
    """Yield a row for each selected request whose words are in the log; a correction takes the answer's place."""
    for request in read_requests(logs).values():
        if request.get("outcome", "ok") == "ok" and request.get("prompt") and _is_selected(request, selection):
            yield _to_row(request)


def list_suite_questions(recipes: Iterable[Recipe]) -> set[str]:
    """Return what the suites of recipes ask, as `asks_a_suite` compares it; questions of few words are left out."""
    texts = (question.text for recipe in recipes for question in list_test_questions(recipe))
    # The log has them with secrets and personal data masked.
    keys = (normalize_question(written) for text in texts for written in (text, mask_sensitive(redact(text))))
    return {key for key in keys if len(key.split()) >= FEWEST_WORDS}


def asks_a_suite(row: dict[str, Any], questions: Set[str]) -> bool:
    """Return whether a user's message of a row is a suite's question; case, punctuation and spaces are ignored."""
    return any(
        normalize_question(text) in questions
        for message in row["messages"]
        if message["role"] == "user"
        for text in _texts(message.get("content"))
    )


def _texts(content: Any) -> list[str]:
    """Return a message's text, or those of its parts."""
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part.get("text"), str)]


def _is_selected(request: dict[str, Any], selection: Selection) -> bool:
    value, correction = request.get("value"), request.get("correction")
    rated = {"": True, "good": value is not None and value > GOOD, "bad": value is not None and value <= GOOD}
    return (
        selection.model in ("", request.get("model"))
        and selection.task in ("", request.get("task"))
        and (rated[selection.rating] or (selection.corrected and correction is not None))
        and (not selection.corrected or correction is not None or selection.rating != "")
    )


def _to_row(request: dict[str, Any]) -> dict[str, Any]:
    correction = request.get("correction")
    answer = {"role": "assistant", "content": correction} if correction else request["answer"]
    row = {"messages": [*request["prompt"], answer], "source": f"log/{request['id']}"}
    return row | ({"tools": request["tools"]} if request.get("tools") else {})
