"""The blind ballot: nothing on it tells whose answer is whose, and votes are read for what they show."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.unit.test_compare import answered, make_run
from tests.unit.test_report import EVIL
from tuneline.cli import app
from tuneline.core.errors import BadData, BadRequest, NotFound
from tuneline.stages.evaluate.verdicts.ratings import make_ballot, preference, read_ratings


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    runs = tmp_path / "runs"
    monkeypatch.setenv("TUNELINE_RUNS", str(runs))
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    make_run(runs, "old", {"base": {"unseen": answered(range(50))}, "tuned-Q4_K_M": {"unseen": answered(range(400))}})
    return runs


def rate(runs: Path) -> tuple[str, dict[str, bool]]:
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["rate", "old:base", "old", "--items", "40"])
    assert done.exit_code == 0 and "150 more got the same answer from both" in done.output, done.output
    (page,), (key,) = (runs / "old").glob("ballot-*.html"), (runs / "old").glob("ballot-*.key.json")
    return page.read_text(), json.loads(key.read_text())


def test_a_ballot_names_nobody_and_loads_nothing(runs: Path) -> None:
    page, key = rate(runs)
    assert not re.search(r"tuned|base|old:", page.split("<script>")[1]) and "Q4_K_M" not in page
    assert EVIL not in page and "http" not in page.replace("http-equiv", "") and "src=" not in page
    questions = json.loads(re.search(r"QUESTIONS = (\[.*?\]);\n", page)[1])  # type: ignore[index]
    assert len(questions) == 40 and all(one["left"] != one["right"] for one in questions)
    lefts = sum(key["a_is_left"].values())
    assert 8 < lefts < 32  # sides change at random


def test_the_side_that_was_chosen_is_the_model_that_was_preferred(runs: Path, tmp_path: Path) -> None:
    page, key = rate(runs)
    questions = json.loads(re.search(r"QUESTIONS = (\[.*?\]);\n", page)[1])  # type: ignore[index]
    # The base says `nothing`, the tuned one makes the call: who prefers calls prefers B.
    votes = {one["id"]: "right" if "nothing" in one["left"] else "left" for one in questions}
    files = []
    for rater, cast in {"ann": votes, "bo": votes | {"000": "equal"}}.items():
        files.append(tmp_path / f"{rater}.json")
        files[-1].write_text(json.dumps({"ballot": key["ballot"], "rater": rater, "votes": cast}))
    found = read_ratings(files)
    assert (found.b_won, found.a_won, found.items, found.both_rated) == (40, 0, 40, 40)
    assert found.verdict == "old:tuned-Q4_K_M is preferred" and found.low > 0.9 and found.agreed == 39 / 40
    done = CliRunner().invoke(app, ["ratings", *map(str, files)])
    assert "old:tuned-Q4_K_M is preferred" in done.output and "ann, bo" in done.output and "kappa" in done.output


def test_votes_are_counted_item_by_item() -> None:
    key = {"ballot": "x", "a": "one", "b": "two", "a_is_left": {f"{i}": True for i in range(10)}}
    ann = {f"{i}": "right" for i in range(10)}
    found = preference(key, {"ann": ann, "bo": ann, "cy": ann})  # type: ignore[dict-item]
    assert (found.b_won, found.items) == (10, 10) and found.p == pytest.approx(2 / 2**10)  # not thirty votes
    assert found.left_share == 0 and found.kappa == 1.0
    split = preference(key, {"ann": ann, "bo": {i: "left" for i in ann}})  # type: ignore[dict-item]
    assert (split.tied, split.p, split.verdict) == (10, 1.0, "no preference shown") and split.kappa == 0.0
    alone = preference(key, {"ann": {"0": "right", "1": "left", "2": "equal"}})
    assert alone.kappa is None and (alone.b_won, alone.a_won, alone.tied) == (1, 1, 1)


def test_what_is_no_rating_is_told(runs: Path, tmp_path: Path) -> None:
    _, key = rate(runs)
    good = tmp_path / "good.json"
    good.write_text(json.dumps({"ballot": key["ballot"], "rater": "ann", "votes": {"000": "left"}}))
    for content, told in (
        ("{", "bad.json:1:2: not JSON"),
        ("[]", "not a rating"),
        (json.dumps({"ballot": key["ballot"], "rater": "b", "votes": {"000": "A"}}), "'A'"),
        (json.dumps({"ballot": "other", "rater": "b", "votes": {}}), "2 ballots"),
        (json.dumps({"ballot": key["ballot"], "rater": "b", "votes": {"999": "left"}}), "not an item of this ballot"),
        (good.read_text(), "rated twice"),
    ):
        bad = tmp_path / "bad.json"
        bad.write_text(content)
        with pytest.raises(BadData, match=told):
            read_ratings([good, bad])
    with pytest.raises(NotFound, match="its key is in no run"):
        good.write_text(json.dumps({"ballot": "../../etc", "rater": "ann", "votes": {}}))
        read_ratings([good])
    with pytest.raises(BadRequest, match="nothing to rate"):
        make_ballot("old", "old", 5, 0)
