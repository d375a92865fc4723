"""What people prefer: a blind ballot of two models' answers, and what several people's votes on it show.

The ballot names no model. Which side is whose lies in a key file that stays with the run.
"""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from tuneline.core import artifacts, paths
from tuneline.core.errors import BadData, BadRequest, NotFound
from tuneline.stages.evaluate.scoring.llm_judge import said
from tuneline.stages.evaluate.verdicts.comparison import sides

Vote = Literal["left", "right", "equal"]
VOTES: tuple[Vote, ...] = ("left", "right", "equal")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Question:
    """One item of a ballot."""

    id: str
    prompt: str
    left: str
    right: str


@dataclass(frozen=True)
class Ballot:
    """What raters see, and (apart from it) which model stands left."""

    id: str
    questions: tuple[Question, ...]
    a: str
    b: str
    a_is_left: dict[str, bool]
    same: int
    """Items on which both said the same: they tell nothing, and are not asked."""


@dataclass(frozen=True)
class Preference:
    """B against A, as people voted."""

    ballot: str
    a: str
    b: str
    raters: tuple[str, ...]
    items: int
    """Items with a vote."""
    b_won: int
    """Items on which most votes that chose a side chose B."""
    a_won: int
    tied: int
    share: float
    """Of the items somebody won, those B won."""
    low: float
    high: float
    """Its exact 95 % interval (Clopper and Pearson)."""
    p: float
    """Exact sign test of no preference, two-sided."""
    left_share: float
    """Of the votes that chose a side, those for the left: far from a half, the side was chosen and not the answer."""
    kappa: float | None
    """Cohen's kappa of votes for A, B or neither, the mean over pairs of raters (Light, 1971); None for one rater."""
    agreed: float | None
    """Share of the same votes, over pairs of raters."""
    both_rated: int
    """Votes of a pair of raters on the same item, over all pairs."""

    @property
    def verdict(self) -> str:
        if self.p > 1 - CONFIDENCE:
            return "no preference shown"
        return f"{self.b if self.share > 0.5 else self.a} is preferred"


def make_ballot(a: str, b: str, items: int, seed: int) -> Ballot:
    """`items` of those both models answered differently, drawn at random, each with A left or right at random.

    Raises:
        BadRequest: they differ on none. What `compare` raises.
    """
    before, after, pairs = sides(a, b)
    differing = [(x, y) for x, y in pairs if said(x) != said(y)]
    if not differing:
        raise BadRequest(f"{before} and {after} said the same on all {len(pairs)} items: there is nothing to rate")
    draw = random.Random(seed)
    chosen = draw.sample(differing, min(items, len(differing)))
    questions, a_is_left = [], {}
    for number, (x, y) in enumerate(chosen):
        key, first = f"{number:03d}", draw.random() < 0.5
        a_is_left[key] = first
        left, right = (x, y) if first else (y, x)
        questions.append(Question(key, x.prompt, said(left), said(right)))
    content = json.dumps([before, after, seed, [asdict(q) for q in questions]])
    name = hashlib.sha256(content.encode()).hexdigest()[:10]
    return Ballot(name, tuple(questions), before, after, a_is_left, len(pairs) - len(differing))


def write_key(ballot: Ballot) -> Path:
    """Which side is whose, in the folder of B's run; the ballot's page does not say it."""
    file = paths.run_folder(ballot.b.partition(":")[0]) / _key_name(ballot.id)
    key = {"ballot": ballot.id, "a": ballot.a, "b": ballot.b, "a_is_left": ballot.a_is_left}
    artifacts.write_atomic(file, json.dumps(key, indent=1))
    return file


def read_ratings(files: Sequence[Path]) -> Preference:
    """What the votes in several people's files show; all are of one ballot.

    Raises:
        BadData: a file is no rating, two are of different ballots, or two bear one rater's name.
        NotFound: a file, or the ballot's key, is not there.
    """
    read = [_rating(file) for file in files]
    ballots = {rating["ballot"] for rating in read}
    if len(ballots) != 1:
        raise BadData(
            f"{files[0]}: these are ratings of {len(ballots)} ballots ({', '.join(sorted(ballots))}), not of one"
        )
    names = [rating["rater"] for rating in read]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadData(f"{files[names.index(twice[0])]}: {twice[0]!r} rated twice; each person's votes count once")
    key = _key(ballots.pop())
    for file, rating in zip(files, read, strict=True):
        if unknown := set(rating["votes"]) - set(key["a_is_left"]):
            raise BadData(f"{file}: votes on {sorted(unknown)[0]!r}, which is no item of this ballot")
    return preference(key, {rating["rater"]: rating["votes"] for rating in read})


def preference(key: Mapping[str, Any], votes: Mapping[str, Mapping[str, Vote]]) -> Preference:
    """Item by item, so that several people's votes on one item are not taken for independent."""
    from scipy.stats import binomtest

    chosen = {rater: {i: _whose(key, i, vote) for i, vote in cast.items()} for rater, cast in votes.items()}
    rated = sorted({item for cast in chosen.values() for item in cast})
    balance = [
        sum({"b": 1, "a": -1, "equal": 0}[cast[item]] for cast in chosen.values() if item in cast) for item in rated
    ]
    won, lost = sum(b > 0 for b in balance), sum(b < 0 for b in balance)
    test = binomtest(won, won + lost) if won + lost else None
    low, high = test.proportion_ci(CONFIDENCE) if test else (0.0, 1.0)
    taken = [vote for cast in votes.values() for vote in cast.values() if vote != "equal"]
    kappa, agreed, both = _agreement(list(chosen.values()))
    return Preference(
        ballot=key["ballot"],
        a=key["a"],
        b=key["b"],
        raters=tuple(votes),
        items=len(rated),
        b_won=won,
        a_won=lost,
        tied=balance.count(0),
        share=won / (won + lost) if won + lost else 0.5,
        low=float(low),
        high=float(high),
        p=float(test.pvalue) if test else 1.0,
        left_share=taken.count("left") / len(taken) if taken else 0.5,
        kappa=kappa,
        agreed=agreed,
        both_rated=both,
    )


def _agreement(chosen: Sequence[Mapping[str, str]]) -> tuple[float | None, float | None, int]:
    from tuneline.stages.evaluate.scoring.agreement import cohen_kappa

    pairs = [(x, y, sorted(x.keys() & y.keys())) for x, y in combinations(chosen, 2)]
    pairs = [pair for pair in pairs if pair[2]]
    if not pairs:
        return None, None, 0
    kappas = [cohen_kappa([x[i] for i in both], [y[i] for i in both]) for x, y, both in pairs]
    same, total = sum(x[i] == y[i] for x, y, both in pairs for i in both), sum(len(both) for *_, both in pairs)
    return sum(kappas) / len(kappas), same / total, total


def _whose(key: Mapping[str, Any], item: str, vote: Vote) -> str:
    if vote == "equal":
        return "equal"
    return "a" if (vote == "left") == key["a_is_left"][item] else "b"


def _rating(file: Path) -> dict[str, Any]:
    try:
        rating = json.loads(file.read_text(encoding="utf-8"))
        wrong = [vote for vote in rating["votes"].values() if vote not in VOTES]
        if wrong or not isinstance(rating["ballot"], str) or not str(rating["rater"]).strip():
            raise BadData(
                f"{file}: not a rating: {wrong[0] if wrong else 'no rater'!r}; the page's own button saves one"
            )
    except FileNotFoundError:
        raise NotFound(f"{file}: no such file; the ballot's page saves one") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, BadData):
            raise
        raise BadData(f"{file}: not a rating ({error}); the ballot's page saves one") from None
    found: dict[str, Any] = rating
    return found


def _key(ballot: str) -> dict[str, Any]:
    for file in paths.runs().glob(f"*/{_key_name(ballot)}"):
        found: dict[str, Any] = json.loads(file.read_text())
        return found
    raise NotFound(f"ballot {ballot}: its key lies in no run of {paths.runs()}; read ratings where the page was made")


def _key_name(ballot: str) -> str:
    return f"ballot-{''.join(c for c in ballot if c.isalnum())}.key.json"
