"""The page: whole, safe, and honest about what is missing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tuneline.configs.evaluation import Evaluate, Suite
from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts
from tuneline.core.artifacts import flatten
from tuneline.core.errors import NotFound
from tuneline.core.events import Events
from tuneline.stages.evaluate.answers import Answer, Reply
from tuneline.stages.evaluate.scoring.grading import grade
from tuneline.stages.evaluate.scoring.scoreboard import all_tables
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.verdicts import gate
from tuneline.stages.evaluate.verdicts.size_tradeoff import SizeTradeoff, size_tradeoff
from tuneline.stages.evaluate.verdicts.suite_demands import Evidence
from tuneline.stages.report import write_report
from tuneline.stages.report.charts import Series, choose_ticks, draw_lines, draw_whisker
from tuneline.stages.report.sections.confusions import count_confusions
from tuneline.stages.report.sections.failures import select_failures

SETTINGS = Evaluate(suites=(Suite(name="unseen", grammar=Path("g.yaml"), rows=40, floor=0.9),))
EVIL = "<script>alert('x')</script>"


@pytest.fixture(autouse=True)
def no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))


def make_prepare(run: Path) -> Any:
    metrics = {"rows_train": 8800, "rows_validation": 200, "too_long": 0, "tokens_mean": 143.2}
    settings = {"data": {"sources": [{"grammar": "sha256:1", "rows": 9000}], "system": EVIL}}
    return artifacts.make(run / "prepare", stage_version=1, settings=settings, needs={}, build=lambda _: metrics)


def make_all(run: Path, served: str = "tuned-F16") -> None:
    prepared = make_prepare(run)
    events = Events(run, "train")
    for step in (1, 2, 3):
        events.emit("metrics", step=step, loss=3.0 / step, learning_rate=1e-3)
    events.emit("metrics", step=3, validation_loss=1.25)
    for step, got in ((1, "no idea"), (2, "hm"), (3, f"email.send {EVIL}")):
        events.emit("sample", step=step, samples=[{"prompt": f"mail {EVIL}", "wanted": "email.send", "got": got}])
    settings = {"base": "tiny", "train": {"rank": 32}}
    trained = artifacts.make(
        run / "train", stage_version=1, settings=settings, needs={"prepare": prepared}, build=lambda _: {}
    )

    def convert(folder: Path) -> dict[str, Any]:
        for name, amount in (("base-F16", 4000), ("tuned-F16", 4000), ("tuned-Q4_K_M", 1500)):
            (folder / f"{name}.gguf").write_bytes(b"x" * amount)
        check = {"check": "token_ids", "file": "tuned-F16.gguf", "passed": True, "detail": f"64 texts {EVIL}"}
        failed = check | {"file": "tuned-AWQ", "passed": False, "detail": "3 of 64 texts have different ids"}
        (folder / "verify.json").write_text(json.dumps({"checks": [check, failed]}))
        figures = {"perplexity": 4.0, "perplexity_ratio": 1.0, "kl_mean_nats": 0.0, "top_1_agreement": 1.0, "tokens": 9}
        worse = figures | {"perplexity": 4.2, "perplexity_ratio": 1.05, "kl_mean_nats": 0.021, "top_1_agreement": 0.93}
        return {
            "files": {
                "tuned-F16": {"bytes": 4000},
                "tuned-Q4_K_M": {"bytes": 1500, "k_quant_share": 0.97, "types": {"Q4_K": 97, "F32": 3}},
            },
            "folders": {"tuned-AWQ": {"bytes": 1000}},
            "fidelity": {"tuned-F16": figures, "tuned-Q4_K_M": worse, "tuned-AWQ": worse},
            "skipped": ["greedy: 70 B parameters with their adapter need a GPU"],
        }

    needs = {"prepare": prepared, "train": trained}
    converted = artifacts.make(run / "convert", stage_version=1, settings={}, needs=needs, build=convert)

    def evaluate(folder: Path) -> dict[str, Any]:
        right, found = {"base": 1, "tuned-F16": 39, "tuned-Q4_K_M": 38}, {}
        for target, count in right.items():
            items = [Item(f"unseen-{i:02d}", f"mail {EVIL}", "email.send", {"to": EVIL}, "mail _") for i in range(40)]
            call = {"name": "email.send", "arguments": {"to": EVIL}}
            marked = [grade(item, Reply([call] if i < count else [], EVIL)) for i, item in enumerate(items)]
            file = folder / "answers" / "unseen" / f"{target}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(vars(answer)) + "\n" for answer in marked))
            found["unseen", target] = marked
        told, verdicts = gate.decide_gate(SETTINGS, Evidence(found, served, "base"))
        (folder / "verdicts.json").write_text(verdicts.model_dump_json())
        return all_tables(found, SETTINGS.confidence) | {
            "gate": told,
            "classifier": [{"suite": "unseen", "n": 40, "accuracy": 0.9, "low": 0.8, "high": 0.95}],
            "overlap": {"unseen": {"phrasings": 40, "shared_phrasings": 2, "fivegrams": 90, "shared_fivegrams": 5}},
        }

    settings = {"evaluate": SETTINGS.model_dump(mode="json")}
    needs = {"prepare": prepared, "convert": converted}
    artifacts.make(run / "evaluate", stage_version=1, settings=settings, needs=needs, build=evaluate)


class Page(HTMLParser):
    """Checks nesting, and collects tags and what the page would load."""

    VOID = ("meta", "link", "img", "br", "hr", "input", "line", "circle", "polyline")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.loads = list[str](), list[str](), list[str]()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.loads += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_finished_run(tmp_path: Path) -> None:
    make_all(tmp_path / "demo")
    text = write_report(tmp_path / "demo").read_text()
    page = Page(text)
    assert "Right tool on unseen: 2.5\u202f% → 97.5\u202f% (n = 40)" in text
    assert "The gate says no: insufficient evidence." in text and "below the floor of 90.0" in text
    assert "no idea" in text and "email.send &lt;script" in text and ">hm<" not in text
    assert "svg" in page.tags and "is not finished in this run" not in text
    assert "<b>?</b> unseen: tuned-F16 is right in 97.5%" in text  # the share reaches the floor, its bound does not
    assert "tuned F16 is</th>" in text and "+95.0</td>" in text and "KL divergence from tuned F16" in text
    assert "Recommended: tuned F16" in text  # Q4_K_M loses 2.5 points, one is tolerated


def test_what_was_taken_for_what() -> None:
    found = count_confusions({"unseen": answers(["b", "b", "a", None, "c", "c"])})
    assert found and found["columns"] == ["a", "b", "c", "no call", "others"]
    name, n, right, cells = found["rows"][0]
    assert (name, n, right, [cell.count for cell in cells]) == ("a", 6, 1, [1, 2, 2, 1, 0])
    assert [cell.right for cell in cells] == [True, False, False, False, False] and cells[1].share == 1 / 3
    assert count_confusions({}) is None


def test_the_most_telling_failures_come_first() -> None:
    tuned, base = answers(["b", "b", "b", "c", "c", "a", "d"]), answers(["b", "b", "b", "b", "b", "b", "a"])
    found = select_failures({"unseen": tuned}, {"unseen": base})
    assert [row["answer"].got for row in found["shown"]] == ["d", "b", "c", "b", "c", "b"]
    assert found["shown"][0]["why"] == "the base had it right; d for a: 1 time"
    assert (found["wrong"], found["lost"], found["inexact"]) == (6, 1, 0)
    many = select_failures({"unseen": answers(["b"] * 90)}, {})
    assert (many["wrong"], len(many["shown"])) == (90, 20)


def answers(named: list[str | None]) -> list[Answer]:
    items = [Item(f"unseen-{i:02d}", f"request {i}", "a", {}, f"request {i}") for i in range(len(named))]
    calls = [[{"name": name, "arguments": {}}] if name else [] for name in named]
    return [grade(item, Reply(call)) for item, call in zip(items, calls, strict=True)]


def test_the_smallest_file_that_loses_little_is_recommended() -> None:
    right = {"tuned-F16": 990, "tuned-Q8_0": 983, "tuned-Q4_K_M": 970}
    found = {target: {"unseen": answers(["a"] * count + ["b"] * (1000 - count))} for target, count in right.items()}
    files = {"tuned-F16": 16_000, "tuned-Q8_0": 8_500, "tuned-Q4_K_M": 4_900}

    def within(points: float) -> SizeTradeoff:
        return size_tradeoff(found, files, "tuned-F16", tolerance_points=points, confidence=0.95, fidelity={})

    strict, tolerant = within(1), within(5)
    assert strict.recommended and strict.recommended.target == "tuned-Q8_0"
    assert [(row.target, row.within, row.shown) for row in strict.rows[1:]] == [
        ("tuned-Q8_0", True, False),  # 0.7 points lost, but the interval reaches beyond one
        ("tuned-Q4_K_M", False, False),
    ]
    assert strict.rows[1].lost == pytest.approx(0.007) and strict.rows[1].lost_high > 0.01
    assert strict.rows[2].beyond_on == ("unseen",)  # 2 points lost, less than 1 would be chance
    assert tolerant.recommended == tolerant.rows[2] and tolerant.rows[2].shown


def test_what_precision_costs_is_told_beside_what_people_quote(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    make_all(run)
    text = write_report(run).read_text()
    rows = [re.sub(r"<[^>]+>", "|", row) for row in text.partition("What precision costs")[2].split("<tr>")]
    at = next(n for n, row in enumerate(rows) if "tuned AWQ" in row)
    assert "AWQ, GPTQ" in rows[at - 1] and "rivals 8 bit" in rows[at - 1]
    assert all(figure in rows[at] for figure in ("25.0\u202f%", "× 1.050", "0.0210", "93.0\u202f%"))
    assert "Kurtić" in text and not any("8 bit</strong>" in row for row in text.split("<tr>"))  # no file, no row
    ids = next(row for row in rows if row.startswith("|token ids"))
    assert "1 of 2 – failed" in ids and "tuned AWQ: 3 of 64 texts have different ids" in ids
    assert "Not verified: greedy: 70 B parameters" in text


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    make_all(tmp_path / "demo")
    text = write_report(tmp_path / "demo").read_text()
    page = Page(text)
    assert EVIL not in text and "&lt;script&gt;" in text
    assert "script" not in page.tags and page.loads == [] and "url(" not in text and "@import" not in text


def test_an_unfinished_run_says_what_is_missing(tmp_path: Path) -> None:
    run = tmp_path / "half"
    make_prepare(run)
    (run / "train").mkdir()
    made_from = {"stage_version": 1, "settings": flatten({"train": {"rank": 7}}), "needs": {}}
    draft = {"made_from": made_from, "started": "2026-11-30T10:00:00+00:00", "seconds": 1.0}
    (run / "train" / "draft.json").write_text(json.dumps(draft))
    text = write_report(run).read_text()
    Page(text)
    assert "Not evaluated yet" in text and "train is under way" in text
    for stage in ("train", "convert", "evaluate"):
        assert f"{stage} is not finished in this run" in text


def test_an_empty_run_and_no_run(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    Page(write_report(tmp_path / "new").read_text())
    with pytest.raises(NotFound):
        write_report(tmp_path / "none")


def test_a_resumed_training_is_one_curve(tmp_path: Path) -> None:
    events = Events(tmp_path, "train")
    for step, loss in ((1, 3.0), (2, 2.0), (2, 2.0), (3, 1.0)):
        events.emit("metrics", step=step, loss=loss)
    text = write_report(tmp_path).read_text()
    drawn = text.split('<polyline class="muted-line" points="')[1].split('"')[0]
    assert len(drawn.split()) == 3


def test_charts() -> None:
    assert choose_ticks(0, 1, 4) == [0, 0.25, 0.5, 0.75, 1]
    assert choose_ticks(0.93, 1.0, 4) == pytest.approx([0.92, 0.94, 0.96, 0.98, 1.0])
    assert choose_ticks(5, 5, 4) == [5]
    assert 'aria-label="50.0%' in draw_whisker(0.5, 0.4, 0.6, "tuned")
    assert draw_lines([], "nothing") == ""
    assert "&lt;b&gt;" in draw_lines([Series("a", "tuned", [(0, 0), (1, 0)])], "<b>")


def test_the_plan_stands_beside_what_was_measured(tmp_path: Path) -> None:
    make_all(tmp_path / "r")
    assert "Planned and measured" not in write_report(tmp_path / "r").read_text(), "without a recipe there is no plan"
    sources = [{"grammar": "data/requests/train.yaml", "rows": 9000}]
    recipe = Recipe.model_validate({"name": "r", "data": {"sources": sources}})
    (tmp_path / "r/recipe.json").write_text(recipe.model_dump_json())
    Events(tmp_path / "r", "train").emit("metrics", step=3, tokens_per_second=1e9, process_gb=1.6)
    page = write_report(tmp_path / "r").read_text()
    assert "Planned and measured" in page and "1,000,000,000 tokens/s" in page and "1 GB" in page
    assert "cpu_gflops_per_core" in page
