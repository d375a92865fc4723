"""A ballot that grows with each question, in the form of `tuneline rate`: `tuneline ratings` reads its votes."""

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneline.core import jsonl
from tuneline.core.files import write_atomic
from tuneline.stages.evaluate.verdicts.ratings import Preference, Vote, live_ballots, preference


@dataclass
class LiveBallot:
    """The questions put to two models by one rater, and the votes on their answers."""

    a: str
    b: str
    rater: str
    id: str = field(default_factory=lambda: secrets.token_hex(5))
    a_is_left: dict[str, bool] = field(default_factory=dict)
    votes: dict[str, Vote] = field(default_factory=dict)

    def add_question(self, *, is_blind: bool) -> str:
        """Add a question and return its id; A's side is drawn at random, or left if the raters see the names."""
        item = f"{len(self.a_is_left):03d}"
        self.a_is_left[item] = secrets.randbelow(2) == 0 if is_blind else True
        return item

    def vote(self, item: str, vote: Vote, question: str, left: str, right: str) -> Path:
        """Write down a vote, with what it is about, and return the file for `tuneline ratings`."""
        folder = live_ballots()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.votes[item] = vote
        write_atomic(folder / f"ballot-{self.id}.key.json", json.dumps(self._key(), indent=1), private=True)
        answers = {"item": item, "question": question, "left": left, "right": right, "vote": vote}
        jsonl.append(folder / f"ballot-{self.id}.answers.jsonl", answers)
        rating = {"ballot": self.id, "rater": self.rater, "votes": self.votes}
        write_atomic(self.file, json.dumps(rating, indent=1), private=True)
        return self.file

    @property
    def file(self) -> Path:
        """The rater's votes."""
        return live_ballots() / f"rating-{self.id}.json"

    def result(self) -> Preference:
        """Return what the votes show so far."""
        return preference(self._key(), {self.rater: self.votes})

    def _key(self) -> dict[str, Any]:
        return {"ballot": self.id, "a": self.a, "b": self.b, "a_is_left": self.a_is_left}
