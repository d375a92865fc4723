"""`tuneline compare`: which items are the same, what is shown about them, and where it can be read."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tests.runs
from tests.unit.test_report import EVIL, Page
from tuneline.cli import app
from tuneline.core.errors import BadRequest, NotFound
from tuneline.stages.evaluate.answers import Answer, Reply
from tuneline.stages.evaluate.scoring.grading import grade
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.verdicts.comparison import compare_models
from tuneline.stages.report.charts import draw_whisker, draw_whisker_axis

Target = dict[str, list[Answer]]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    return tmp_path / "runs"


def answered(right: range, n: int = 500, start: int = 0, suite: str = "unseen") -> list[Answer]:
    tools = ("email.send", "docs.create")
    items = [
        Item(f"{suite}-{i:04d}", f"request {start + i} {EVIL}", tools[i % 2], {"to": "Ana"}, f"request {start + i}")
        for i in range(n)
    ]
    wrong = Reply([], f"nothing {EVIL}")
    return [
        grade(i, Reply([{"name": i.tool, "arguments": i.arguments}]) if k in right else wrong)
        for k, i in enumerate(items)
    ]


def make_run(runs: Path, name: str, targets: Mapping[str, Target]) -> Path:
    """A run whose answers are in no order of their items, as an engine finishes them."""
    answers = {target: {suite: [*reversed(a)] for suite, a in suites.items()} for target, suites in targets.items()}
    return tests.runs.make_run(runs / name, answers=answers)


def make_two(runs: Path) -> None:
    make_run(runs, "old", {"base": {"unseen": answered(range(50))}, "tuned-Q4_K_M": {"unseen": answered(range(400))}})
    make_run(runs, "new", {"tuned-Q4_K_M": {"unseen": answered(range(10, 480))}})


def test_a_run_stands_for_what_it_serves(runs: Path) -> None:
    make_two(runs)
    found = compare_models("old", "new")
    assert (found.verdicts.a, found.verdicts.b) == ("old:tuned-Q4_K_M", "new:tuned-Q4_K_M")
    task = found.verdicts.tasks[0]
    assert (task.task, task.verdict, task.n, task.gained, task.lost) == ("unseen", "better", 500, 80, 10)
    assert [change.gained for change in found.changes].count(True) == 80 and len(found.changes) == 90
    assert compare_models("new", "old").verdicts.tasks[0].verdict == "worse"
    assert compare_models("old", "old").verdicts.tasks[0].verdict == "not shown"
    assert compare_models("old:base", "old").verdicts.tasks[0].gained == 350


def test_items_are_the_same_by_what_was_asked_not_by_their_number(runs: Path) -> None:
    make_two(runs)
    make_run(runs, "moved", {"tuned-Q4_K_M": {"unseen": answered(range(500), start=100), "other": answered(range(9))}})
    found = compare_models("old", "moved")
    assert found.left_out == {"unseen": 200} and found.verdicts.tasks[0].n == 400
    assert len(found.verdicts.tasks) == 1
    make_run(runs, "elsewhere", {"tuned-Q4_K_M": {"unseen": answered(range(500), start=9000)}})
    with pytest.raises(BadRequest, match="no item in common"):
        compare_models("old", "elsewhere")


def test_tool_by_tool_and_with_arguments(runs: Path) -> None:
    plain = answered(range(500))
    inexact = [replace(answer, exact=i > 99) for i, answer in enumerate(plain)]
    make_run(runs, "plain", {"tuned-Q4_K_M": {"unseen": plain}})
    make_run(runs, "inexact", {"tuned-Q4_K_M": {"unseen": inexact}})
    assert compare_models("plain", "inexact").changes == ()
    found = compare_models("plain", "inexact", exact=True, by_tool=True)
    assert {t.task: t.lost for t in found.verdicts.tasks} == {"unseen/email.send": 50, "unseen/docs.create": 50}
    assert {t.verdict for t in found.verdicts.tasks} == {"worse"}


@pytest.mark.parametrize(
    ("a", "error", "told"),
    [
        ("none", NotFound, "runs ls"),
        ("old:tuned-Q8_0", BadRequest, "has answers of base, tuned-Q4_K_M"),
        ("../old", BadRequest, "letters, digits"),
        ("raw", NotFound, "no finished evaluate"),
    ],
)
def test_what_cannot_be_compared_is_told(runs: Path, a: str, error: type[Exception], told: str) -> None:
    make_two(runs)
    (runs / "raw").mkdir()
    (runs / "raw/recipe.json").write_text(tests.runs.MICRO.model_dump_json())
    with pytest.raises(error, match=told):
        compare_models(a, "new")
    assert not list(runs.glob("*/compare-*.html"))


def test_the_command_prints_draws_and_tells_where_the_items_stand(runs: Path) -> None:
    make_two(runs)
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["compare", "old:base", "new"])
    assert done.exit_code == 0, done.output
    assert (
        "better" in done.output and "●" in done.output and "440 items are right in only one of the two" in done.output
    )
    page = runs / "new/compare-old-base-new-tuned-Q4_K_M.html"
    text = page.read_text()
    parsed = Page(text)
    assert "B is better on unseen" in text and "svg" in parsed.tags
    assert EVIL not in text and "script" not in parsed.tags and parsed.loads == []
    assert text.count('class="failure"') == 210  # 200 of 430 gained, all 10 lost


def test_json_has_everything(runs: Path) -> None:
    make_two(runs)
    done = CliRunner().invoke(app, ["compare", "old", "new", "--json", "--to", str(runs / "page.html")])
    told = json.loads(done.output)
    assert told["tasks"][0]["verdict"] == "better" and len(told["changes"]) == 90
    assert told["page"] == str(runs / "page.html") and (runs / "page.html").exists()
    assert told["changes"][0]["a"]["calls"] and not told["changes"][0]["b"]["calls"]


def test_a_difference_is_drawn_around_zero() -> None:
    assert 'x1="50.0%"' in draw_whisker(0.1, 0.05, 0.15, "tuned", 0.0, (-0.2, 0.2))
    assert "+10%" in draw_whisker_axis((-0.2, 0.2)) and "-20%" in draw_whisker_axis((-0.2, 0.2))
