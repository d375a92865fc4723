"""What people prefer: a blind ballot of two models' answers, and what several people's votes on it show.

The ballot names no model. A key file that stays with the run says which model is on which side.
"""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from tuneline.configs.section import explain_first
from tuneline.core import paths
from tuneline.core.errors import BadData, BadRequest, NotFound, StageFailed
from tuneline.core.files import write_atomic
from tuneline.core.user_files import read_json
from tuneline.stages.evaluate.answers import answer_text
from tuneline.stages.evaluate.scoring.agreement import cohen_kappa
from tuneline.stages.evaluate.verdicts.comparison import paired_answers

Vote = Literal["left", "right", "equal"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Question:
    """One item of a ballot, with the two answers."""

    id: str
    prompt: str
    left: str
    right: str


@dataclass(frozen=True)
class Ballot:
    """What raters see, and apart from it which model is on the left."""

    id: str
    questions: tuple[Question, ...]
    a: str
    b: str
    a_is_left: dict[str, bool]
    same: int
    """Items that both answered alike: they show no preference, and are not asked."""


@dataclass(frozen=True)
class Preference:
    """B against A, as people voted."""

    ballot: str
    a: str
    b: str
    raters: tuple[str, ...]
    items: int
    """Items with at least one vote."""
    b_won: int
    """Items on which more votes chose B than A."""
    a_won: int
    tied: int
    share: float
    """Of the items that one of the two won, those that B won."""
    low: float
    high: float
    """Exact 95 % interval of the share (Clopper and Pearson)."""
    p: float
    """Two-sided exact sign test of "no preference"."""
    left_share: float
    """Of the votes that chose a side, those for the left; far from a half, raters chose the side and not the answer."""
    kappa: float | None
    """Cohen's kappa of votes for A, B or neither, the mean over pairs of raters (Light, 1971); None for one rater."""
    agreed: float | None
    """Share of equal votes, over all pairs of raters."""
    both_rated: int
    """Items that two raters both voted on, summed over all pairs of raters."""

    @property
    def verdict(self) -> str:
        if self.p > 1 - CONFIDENCE:
            return "no preference shown"
        return f"{self.b if self.share > 0.5 else self.a} is preferred"


def make_ballot(a: str, b: str, items: int, seed: int) -> Ballot:
    """Return a ballot of `items` that both models answered differently, drawn at random, A left or right at random.

    Raises:
        BadRequest: they differ on no item. Also what `compare_models` raises.
    """
    name_a, name_b, pairs = paired_answers(a, b)
    differing = [(x, y) for x, y in pairs if answer_text(x) != answer_text(y)]
    if not differing:
        raise BadRequest(
            f"{name_a} and {name_b} gave the same answers to all {len(pairs)} items: there is nothing to rate"
        )
    rng = random.Random(seed)
    questions, a_is_left = [], {}
    for number, (x, y) in enumerate(rng.sample(differing, min(items, len(differing)))):
        question_id = f"{number:03d}"
        a_is_left[question_id] = rng.random() < 0.5
        left, right = (x, y) if a_is_left[question_id] else (y, x)
        questions.append(Question(question_id, x.prompt, answer_text(left), answer_text(right)))
    content = json.dumps([name_a, name_b, seed, [asdict(question) for question in questions]])
    ballot_id = hashlib.sha256(content.encode()).hexdigest()[:10]
    return Ballot(ballot_id, tuple(questions), name_a, name_b, a_is_left, len(pairs) - len(differing))


def live_ballots() -> Path:
    """Return the folder of ballots whose questions are asked while people vote, with their keys and ratings."""
    return paths.ui() / "ballots"


def write_key(ballot: Ballot) -> Path:
    """Write which side is whose into the folder of B's run, and return the file."""
    file = paths.run_folder(ballot.b.partition(":")[0]) / _key_name(ballot.id)
    key = {"ballot": ballot.id, "a": ballot.a, "b": ballot.b, "a_is_left": ballot.a_is_left}
    write_atomic(file, json.dumps(key, indent=1))
    return file


def read_ratings(files: Sequence[Path]) -> Preference:
    """Return what the votes in several people's files show; all files are of one ballot.

    Raises:
        BadData: a file is no rating, two are of different ballots, or two have the same rater's name.
        NotFound: a file, or the ballot's key, does not exist.
    """
    ratings = [_read_rating(file) for file in files]
    ballots = {rating["ballot"] for rating in ratings}
    if len(ballots) != 1:
        raise BadData(
            f"{files[0]}: these are ratings of {len(ballots)} ballots ({', '.join(sorted(ballots))}), not of one"
        )
    raters = [rating["rater"] for rating in ratings]
    if repeated := [rater for rater in raters if raters.count(rater) > 1]:
        file = files[raters.index(repeated[0])]
        raise BadData(f"{file}: {repeated[0]!r} rated twice; each person's votes count once")
    key = _read_key(ballots.pop())
    for file, rating in zip(files, ratings, strict=True):
        if unknown := set(rating["votes"]) - set(key["a_is_left"]):
            raise BadData(f"{file}: votes on {sorted(unknown)[0]!r}, which is not an item of this ballot")
    return preference(key, {rating["rater"]: rating["votes"] for rating in ratings})


def preference(key: Mapping[str, Any], votes: Mapping[str, Mapping[str, Vote]]) -> Preference:
    """Return what votes by rater and item show, with a ballot's key.

    The test is over items, because several people's votes on one item are not independent.
    """
    from scipy.stats import binomtest

    choices = {
        rater: {item: _chosen_model(key, item, vote) for item, vote in ballot.items()}
        for rater, ballot in votes.items()
    }
    items = sorted({item for ballot in choices.values() for item in ballot})
    balance = [
        sum({"b": 1, "a": -1, "equal": 0}[ballot[item]] for ballot in choices.values() if item in ballot)
        for item in items
    ]
    b_won, a_won = sum(b > 0 for b in balance), sum(b < 0 for b in balance)
    test = binomtest(b_won, b_won + a_won) if b_won + a_won else None
    low, high = test.proportion_ci(CONFIDENCE) if test else (0.0, 1.0)
    side_votes = [vote for ballot in votes.values() for vote in ballot.values() if vote != "equal"]
    return Preference(
        ballot=key["ballot"],
        a=key["a"],
        b=key["b"],
        raters=tuple(votes),
        items=len(items),
        b_won=b_won,
        a_won=a_won,
        tied=balance.count(0),
        share=b_won / (b_won + a_won) if b_won + a_won else 0.5,
        low=float(low),
        high=float(high),
        p=float(test.pvalue) if test else 1.0,
        left_share=side_votes.count("left") / len(side_votes) if side_votes else 0.5,
        **_rater_agreement(list(choices.values())),
    )


def _rater_agreement(choices: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the agreement fields of a `Preference`; None where no two raters voted on the same item."""
    pairs = [(x, y, sorted(x.keys() & y.keys())) for x, y in combinations(choices, 2)]
    pairs = [pair for pair in pairs if pair[2]]
    if not pairs:
        return {"kappa": None, "agreed": None, "both_rated": 0}
    kappas = [cohen_kappa([x[i] for i in items], [y[i] for i in items]) for x, y, items in pairs]
    equal, total = sum(x[i] == y[i] for x, y, items in pairs for i in items), sum(len(items) for *_, items in pairs)
    return {"kappa": sum(kappas) / len(kappas), "agreed": equal / total, "both_rated": total}


def _chosen_model(key: Mapping[str, Any], item: str, vote: Vote) -> str:
    """Return "a", "b" or "equal"."""
    if vote == "equal":
        return "equal"
    return "a" if (vote == "left") == key["a_is_left"][item] else "b"


class _Rating(BaseModel):
    """What a ballot's page saves."""

    ballot: str
    rater: str = Field(pattern=r"\S")
    votes: dict[str, Vote]


class _Key(BaseModel):
    """Which side is whose."""

    ballot: str
    a: str
    b: str
    a_is_left: dict[str, bool]


def _read_rating(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise NotFound(f"{file}: no such file; use the file saved by the ballot's page")
    try:
        return _Rating.model_validate(read_json(file, BadData)).model_dump()
    except ValidationError as error:
        reason = explain_first(error)
        raise BadData(f"{file}: not a rating: {reason}; use the file saved by the page's button") from None


def _read_key(ballot_id: str) -> dict[str, Any]:
    name = _key_name(ballot_id)
    for file in (*paths.runs().glob(f"*/{name}"), *live_ballots().glob(name)):
        try:
            return _Key.model_validate(read_json(file, StageFailed)).model_dump()
        except ValidationError as error:
            raise StageFailed(f"{file}: damaged: {explain_first(error)}; restore it, or make a new ballot") from None
    raise NotFound(
        f"ballot {ballot_id}: its key is in no run of {paths.runs()}; evaluate ratings on the machine where the "
        "page was made"
    )


def _key_name(ballot_id: str) -> str:
    return f"ballot-{''.join(c for c in ballot_id if c.isalnum())}.key.json"
