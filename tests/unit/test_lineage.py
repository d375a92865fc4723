"""Evidence is of these very files, or it is no evidence: for whoever reads a run, and before anything is served."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.runs import (
    MICRO,
    PASSED,
    flip_a_bit,
    link_elsewhere,
    make_convert,
    make_evaluate,
    make_prepare,
    make_run,
    make_train,
    remove,
)
from tests.unit.test_compare import answered
from tuneline.cli import app
from tuneline.cli.commands.pipeline import _exit_by_gate
from tuneline.cli.model_server import start_server
from tuneline.configs.recipe import RECIPE, Recipe
from tuneline.core.errors import NotFound, StageFailed, StaleArtifact
from tuneline.endpoints import promotion
from tuneline.endpoints.scheduled_evaluation import evaluate_promotion
from tuneline.stages.convert import convert
from tuneline.stages.evaluate import evaluate, stage_settings
from tuneline.stages.evaluate.judge_command import judge_run
from tuneline.stages.evaluate.load_testing.load_test import load_test
from tuneline.stages.evaluate.verdicts.comparison import compare_models
from tuneline.stages.line import find_finished
from tuneline.stages.report import write_report
from tuneline.stages.report.model_card import write_card
from tuneline.stages.run_artifacts import open_stage

TUNED = "convert/tuned-Q4_K_M.gguf"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("runs", "models", "policy", "scores", "cache"):
        monkeypatch.setenv(f"TUNELINE_{name.upper()}", str(tmp_path / name))
    answers = {"base": {"unseen": answered(range(9), 40)}, "tuned-Q4_K_M": {"unseen": answered(range(39), 40)}}
    return make_run(tmp_path / "runs/demo", answers=answers)


def convert_again_otherwise(run: Path) -> None:
    remove(run, "convert")
    make_convert(run, verify_tokens=4096)


def convert_again_to_other_bytes(run: Path) -> None:
    remove(run, "convert")
    make_convert(run, "other")


def train_again(run: Path) -> None:
    remove(run, "train")
    make_train(run, "another adapter")


def prepare_again(run: Path) -> None:
    remove(run, "prepare")
    make_prepare(run, {"train.jsonl": "other rows"})


def chat(run: Path) -> None:
    with start_server(run):
        pass


def evaluate_scheduled(run: Path) -> None:
    evaluate_promotion("router", promotion.read_promotion("router"))


def use(*words: str) -> Callable[[Path], Any]:
    """A command; what it raises is raised."""

    def call(run: Path) -> None:
        done = CliRunner().invoke(app, list(words))
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception

    return call


READERS: dict[str, Callable[[Path], Any]] = {
    "promote": lambda run: promotion.promote("demo", "router"),
    "promote --override": lambda run: promotion.promote("demo", "router", "the old one is down"),
    "compare": lambda run: compare_models("demo:base", "demo"),
    "rate": use("rate", "demo:base", "demo"),
    "judge": lambda run: judge_run(run, "openai", "m", None, None, 9),
    "judge --sheet": lambda run: judge_run(run, "openai", "", None, run / "sheet.jsonl", 9),
    "card": write_card,
    "gate": _exit_by_gate,
    "the line": lambda run: find_finished("evaluate", MICRO, run),
}
READERS_OF_FILES: dict[str, Callable[[Path], Any]] = {
    "load": lambda run: load_test(None, run, None, rate=1, seconds=1),
    "serve and chat": chat,
    "evaluate": lambda run: evaluate(MICRO, run),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("change", [convert_again_otherwise, convert_again_to_other_bytes, train_again, prepare_again])
def test_an_evaluation_of_other_files_is_used_by_nobody(run: Path, change: Callable[[Path], None], reader: str) -> None:
    change(run)
    before = sorted(run.rglob("*"))
    with pytest.raises(StaleArtifact, match=r"(?s)(remove|tuneline (prepare|train|convert|evaluate)).*"):
        READERS[reader](run)
    assert sorted(run.rglob("*")) == before and not (run.parents[1] / "policy").exists()


@pytest.mark.parametrize("reader", READERS_OF_FILES)
@pytest.mark.parametrize("change", [train_again, prepare_again])
def test_files_of_another_training_are_used_by_nobody(run: Path, change: Callable[[Path], None], reader: str) -> None:
    change(run)
    remedy = f"remove {run / 'train' if change is prepare_again else run / 'convert'} and run `tuneline"
    with pytest.raises(StaleArtifact, match=remedy):
        READERS_OF_FILES[reader](run)


def test_convert_takes_no_adapter_of_other_rows(run: Path) -> None:
    prepare_again(run)
    remove(run, "convert", "evaluate")
    with pytest.raises(StaleArtifact, match=r"train was made from other files of prepare"):
        convert(MICRO, run)


def test_every_reader_reads_what_is_whole(run: Path) -> None:
    """Otherwise the tests above could pass on anything."""
    assert promotion.promote("demo", "router").files == {
        TUNED: open_stage(run, "convert").manifest.files["tuned-Q4_K_M.gguf"].sha256
    }
    for reader in ("compare", "rate", "judge --sheet", "card", "gate"):
        READERS[reader](run)
    digest = open_stage(run, "convert").manifest.files["tuned-Q4_K_M.gguf"].sha256[:16]
    assert f"Of {TUNED}, SHA-256 <code>{digest[:12]}…" in write_report(run).read_text("utf-8")
    told = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["promote", "demo", "--as", "router"]).output
    assert f"{TUNED}, SHA-256 {digest}…" in told


@pytest.mark.parametrize("change", [convert_again_otherwise, train_again])
def test_the_report_and_the_list_of_runs_say_what_is_not_to_be_relied_on(
    run: Path, change: Callable[[Path], None]
) -> None:
    assert "unseen" in write_report(run).read_text()
    change(run)
    page = write_report(run).read_text()
    assert "Not evaluated yet" in page and "evaluate not reliable" in page
    assert f"{run / 'evaluate'} was made from" in page or f"{run / 'convert'} was made from" in page
    listed = json.loads(CliRunner().invoke(app, ["runs", "ls", "--json"]).output)
    assert listed[0]["stages"]["evaluate"] == "stale" and listed[0]["stages"]["prepare"] == "finished"
    shown = CliRunner().invoke(app, ["runs", "show", "demo", "--json"])
    assert "evaluate" not in json.loads(shown.stdout) and "was made from" in shown.stderr


def test_what_the_gate_is_about_is_what_evaluation_is_made_from(run: Path) -> None:
    def of(**serve: Any) -> dict[str, Any]:
        return stage_settings(MICRO.model_copy(update={"serve": MICRO.serve.model_copy(update=serve)}))

    assert of(type="F16") != of() != of(form="merged") and of(form="merged") == of(form="merged", type="F16")


def test_no_file_goes_live_on_the_gate_of_another(run: Path) -> None:
    """F16 is in the same evaluation, and answered as well; the gate was about Q4_K_M."""
    write_recipe(run, MICRO.model_copy(update={"serve": MICRO.serve.model_copy(update={"type": "F16"})}))
    with pytest.raises(StaleArtifact, match=r"tuned-F16\.gguf: absent in the evaluation, SHA-256 .* now; remove"):
        promotion.promote("demo", "router", "all the same")


@pytest.mark.parametrize("damage", [flip_a_bit, link_elsewhere])
def test_a_damaged_file_is_neither_promoted_nor_shown_nor_started(run: Path, damage: Callable[[Path], None]) -> None:
    promotion.promote("demo", "router")
    damage(run / TUNED)
    what = "its content has changed since" if damage is flip_a_bit else "is a link"
    for reader in (READERS["promote"], READERS["card"], chat, READERS_OF_FILES["load"], evaluate_scheduled):
        with pytest.raises(StageFailed, match=what):
            reader(run)
    with pytest.raises(StageFailed, match=what):
        promotion.open_promoted_run(promotion.read_promotion("router"))
    assert what.replace("'", "&#39;") in write_report(run).read_text()


def test_the_very_file_that_was_promoted_is_served(run: Path) -> None:
    """Made again and evaluated again, all is sound in the run; but it is not what was promoted."""
    promotion.promote("demo", "router")
    convert_again_to_other_bytes(run)
    remove(run, "evaluate")
    make_evaluate(run)
    with pytest.raises(
        StageFailed, match=r"has changed since it was promoted as router: .* `tuneline promote demo --as router`"
    ):
        promotion.open_promoted_run(promotion.read_promotion("router"))
    promotion.promote("demo", "router")
    assert promotion.open_promoted_run(promotion.read_promotion("router")) == run
    with pytest.raises(StageFailed, match="is not what was promoted|has changed since it was promoted"):
        promotion.rollback("router")
    assert len(promotion.read_promotion("router").versions) == 2


def test_other_settings_that_leave_the_file_as_it_is_stop_no_service(run: Path) -> None:
    promotion.promote("demo", "router")
    convert_again_otherwise(run)
    assert promotion.open_promoted_run(promotion.read_promotion("router")) == run


@pytest.mark.parametrize(
    ("form", "paths"),
    [
        ("adapter", ["prepare/chat_template.jinja", "train/adapter/adapter_config.json",
                     "train/adapter/adapter_model.safetensors"]),
        ("merged", ["convert/merged/model.safetensors"]),
    ],
)  # fmt: skip
def test_all_that_an_engine_reads_is_named(run: Path, form: str, paths: list[str]) -> None:
    serve, made = (
        MICRO.serve.model_copy(update={"form": form}),
        MICRO.convert.model_copy(update={"format": "safetensors"}),
    )
    remove(run, "prepare", "train", "convert", "evaluate")
    write_recipe(run, MICRO.model_copy(update={"serve": serve, "convert": made}))
    make_prepare(run, {"train.jsonl": "", "chat_template.jinja": "{{ messages }}"})
    make_train(run)
    make_convert(run)
    make_evaluate(run)
    version = promotion.promote("demo", "router")
    assert sorted(version.files) == paths and (version.base != "") == (form == "adapter")
    for path in paths:
        flip_a_bit(run / path)
        with pytest.raises(StageFailed, match="its content has changed since"):
            promotion.open_promoted_run(promotion.read_promotion("router"))
        flip_a_bit(run / path)
    assert promotion.open_promoted_run(promotion.read_promotion("router")) == run


def test_a_merged_model_that_was_not_made_is_told_with_what_makes_it(run: Path) -> None:
    write_recipe(run, MICRO.model_copy(update={"serve": MICRO.serve.model_copy(update={"form": "merged"})}))
    with pytest.raises(NotFound, match=r"convert: \{format: safetensors\}"):
        promotion.promote("demo", "router")


def test_a_record_without_hashes_is_served_with_a_warning_and_held_against_the_manifest(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    promotion.promote("demo", "router")
    file = run.parents[1] / "policy/models/router.json"
    record = json.loads(file.read_text())
    for new in ("files", "base"):
        del record["versions"][0][new]
    file.write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING):
        assert promotion.open_promoted_run(promotion.read_promotion("router")) == run
    assert "`tuneline promote demo --as router` records it" in caplog.text
    flip_a_bit(run / TUNED)
    with pytest.raises(StageFailed, match="its content has changed since"):
        promotion.open_promoted_run(promotion.read_promotion("router"))


def test_an_evaluation_of_before_is_told_how_to_be_made_again(run: Path) -> None:
    remove(run, "evaluate")
    make_evaluate(run, PASSED | {"files": {}})
    with pytest.raises(
        StaleArtifact, match=r"does not record which files .* `tuneline evaluate .*recipe\.json --run demo`"
    ):
        promotion.promote("demo", "router")


def write_recipe(run: Path, recipe: Recipe) -> None:
    (run / RECIPE).write_text(recipe.model_dump_json())
