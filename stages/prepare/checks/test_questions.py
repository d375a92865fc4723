"""Questions of held-out chats and of suites that are also asked in training, where the rest of the chat differs.

Held-out chats as a whole are compared by duplicate_rows.py: a transcript that goes on is no duplicate.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tuneline.stages.prepare.checks.overlap import normalize_question
from tuneline.stages.prepare.checks.personal_data import quote_start
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.rows import Row

FEWEST_WORDS = 4
"""A shorter message, such as "yes, please", is asked everywhere and proves nothing."""


@dataclass(frozen=True)
class TestQuestion:
    """A question that must not be in training, and where it is asked."""

    __test__ = False  # it is no test of pytest's
    text: str
    file: str
    line: int = 0


class AskedInTraining:
    """Collects the places in training where test questions are asked. Case, punctuation and spaces are ignored."""

    def __init__(self) -> None:
        self._questions: dict[str, TestQuestion] = {}
        self._places: dict[str, str] = {}

    def add(self, question: TestQuestion) -> None:
        """Add a question to look for; those of few words are left out."""
        key = normalize_question(question.text)
        if len(key.split()) >= FEWEST_WORDS:
            self._questions.setdefault(key, question)

    def add_chat(self, row: Row, file: str, line: int) -> None:
        """Add the question that a held-out chat ends with."""
        texts = [message.content for message in row.messages if message.role == "user" and message.content]
        if texts:
            self.add(TestQuestion(texts[-1], file, line))

    def look_in(self, row: Row, place: str) -> None:
        """Look for the questions among the user's messages of a training row."""
        if not self._questions:
            return
        for message in row.messages:
            if message.role == "user" and message.content:
                key = normalize_question(message.content)
                if key in self._questions:
                    self._places.setdefault(key, place)

    def problems(self) -> Iterator[Problem]:
        """Yield a problem for each question that is asked in training."""
        for key, place in self._places.items():
            question = self._questions[key]
            text = f"its question is also in the training data: {place}"
            yield Problem("asked_in_training", question.file, question.line, text, quote=quote_start(question.text))
