"""`tuneline publish`: a dry run says what is done, an interrupted publication continues, and nothing is sent twice."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.runs import MICRO, PASSED, make_run, make_train
from tuneline.cli import app
from tuneline.configs.publish import Publish
from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadRecipe, BadRequest, NotFound, StageFailed
from tuneline.publish.command import open_publication, plan_steps, publish_run, withdraw_run
from tuneline.publish.record import FILE, read_published
from tuneline.stages.early_checks import refuse_early


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RUNS", "MODELS", "CACHE"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))
    publish = Publish.model_validate({"s3": {"url": f"file://{tmp_path}/bucket"}})
    return make_run(tmp_path / "runs/small", MICRO.model_copy(update={"publish": publish}))


def test_a_dry_run_prints_every_file_and_writes_nothing(run: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, ["publish", "small", "--to", "s3", "--dry-run"])
    assert result.exit_code == 0, result.output
    for name in ("adapter_config.json", "adapter_model.safetensors", "tuned-F16.gguf", "SHA256SUMS"):
        assert f"PUT file://{tmp_path}/bucket/{name}" in result.output.replace("\n", "")
    listed = json.loads(CliRunner().invoke(app, ["publish", "small", "--to", "s3", "--dry-run", "--json"]).output)
    assert any(f"PUT file://{tmp_path}/bucket/SHA256SUMS" in step["does"] for step in listed["steps"])
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_published_is_shown_and_can_be_taken_back(run: Path, tmp_path: Path) -> None:
    invoked = CliRunner().invoke(app, ["publish", "small", "--to", "s3"])
    assert invoked.exit_code == 0, invoked.output
    there = tmp_path / "bucket/adapter_model.safetensors"
    assert there.read_bytes() == (run / "train/adapter/adapter_model.safetensors").read_bytes()
    assert "published to s3" in CliRunner().invoke(app, ["runs", "show", "small"]).output
    assert CliRunner().invoke(app, ["publish", "small", "--from", "s3"]).exit_code == 0
    assert not [file for file in (tmp_path / "bucket").rglob("*") if file.is_file()]
    assert read_published(run).targets["s3"].state == "withdrawn"
    with pytest.raises(NotFound, match="not published to s3"):
        withdraw_run(open_publication(run, "s3"), print)


def test_only_what_changed_is_sent_again(run: Path) -> None:
    lines: list[str] = []
    publish_run(open_publication(run, "s3"), lines.append)
    assert not any("done before" in line for line in lines)
    lines.clear()
    publish_run(open_publication(run, "s3"), lines.append)
    assert all("done before" in line for line in lines if line.startswith("PUT"))
    for stage in ("train", "convert", "evaluate"):
        (run / stage).rename(run / f"old-{stage}")
    make_train(run, weights="other weights")
    lines.clear()
    publish_run(open_publication(run, "s3", ["publish.s3.forms=[adapter]"]), lines.append)
    sent = [line for line in lines if line.startswith("PUT") and "done before" not in line]
    assert len(sent) == 2 and "adapter_model.safetensors" in sent[0] and "SHA256SUMS" in sent[1]


def test_a_publication_that_ended_early_continues_where_it_ended(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuneline.publish import s3

    publication, sent, upload = open_publication(run, "s3"), [], s3.upload_file

    def break_at_gguf(file, address, records):  # type: ignore[no-untyped-def]
        if file.name.endswith(".gguf"):
            raise StageFailed("the connection broke")
        sent.append(file.name)
        upload(file, address, records)

    monkeypatch.setattr(s3, "upload_file", break_at_gguf)
    with pytest.raises(StageFailed, match="connection"):
        publish_run(publication, print)
    assert read_published(run).targets["s3"].state == "publishing"
    monkeypatch.setattr(s3, "upload_file", lambda file, *rest: (sent.append(file.name), upload(file, *rest)))
    publish_run(publication, print)
    assert len(sent) == len(set(sent)) and read_published(run).targets["s3"].state == "published"


def test_a_damaged_file_is_not_published(run: Path) -> None:
    file = run / "train/adapter/adapter_model.safetensors"
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(StageFailed, match="content has changed"):
        plan_steps(open_publication(run, "s3"))


def test_a_damaged_record_is_refused(run: Path) -> None:
    (run / FILE).write_text('{"targets": {"s3": {"state": 7}}}')
    with pytest.raises(StageFailed, match=r"published.json: damaged: targets.s3"):
        publish_run(open_publication(run, "s3"), print)


def test_words_that_are_wrong_are_refused_with_the_nearest(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="did you mean 's3'"):
        open_publication(run, "s3s")
    with pytest.raises(BadRequest, match="only settings of `publish`"):
        open_publication(run, "s3", ["train.rank=4"])
    with pytest.raises(BadRecipe, match=r"publish.s3.formz: unknown key; did you mean 'forms'"):
        open_publication(run, "s3", ["publish.s3.formz=[adapter]"])
    with pytest.raises(BadRecipe, match=r"publish.s3.url: .*pattern") as refused:
        open_publication(run, "s3", ["publish.s3.url=s3://somebody:password@bucket"])
    assert "password" not in str(refused.value)
    assert CliRunner().invoke(app, ["publish", "small"]).exit_code != 0


def test_publishing_is_in_no_fingerprint(tmp_path: Path) -> None:
    stated = MICRO.model_copy(update={"publish": Publish.model_validate({"s3": {"url": "s3://bucket"}})})
    for sections in (("base", "train"), ("data",), ("convert",), ("serve",), ("evaluate",)):
        assert MICRO.section(*sections) == stated.section(*sections)


def test_a_form_that_is_not_made_is_refused_before_training(tmp_path: Path) -> None:
    recipe = _load(tmp_path, {"s3": {"url": "s3://bucket", "forms": ["merged"]}})
    with pytest.raises(BadRecipe, match=r"publish.s3.forms: merged: write `convert: \{format: safetensors\}`"):
        refuse_early(recipe)


def _load(folder: Path, publish: object) -> Recipe:
    file = folder / "recipe.yaml"
    shipped = Path(__file__).parents[2] / "configs/recipes/micro.yaml"
    file.write_text(shipped.read_text() + f"\npublish: {json.dumps(publish)}\n")
    return load_recipe(file)


def test_what_was_published_is_taken_back_by_its_own_settings(run: Path, tmp_path: Path) -> None:
    publish_run(open_publication(run, "s3", [f"publish.s3.url=file://{tmp_path}/elsewhere"]), print)
    recipe = run / "recipe.json"
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"publish": {}}))
    assert CliRunner().invoke(app, ["publish", "small", "--from", "s3"]).exit_code == 0
    assert not [file for file in (tmp_path / "elsewhere").rglob("*") if file.is_file()]
    with pytest.raises(NotFound, match="is not published to s3"):
        plan_steps(open_publication(run, "s3", [f"publish.s3.url=file://{tmp_path}/x"], undo=True), undo=True)


def test_a_target_without_a_section_is_held_against_its_defaults(run: Path) -> None:
    with pytest.raises(BadRecipe, match="publish.groq.tier: other: Groq takes only enterprise"):
        publish_run(open_publication(run, "groq"), print)
    with pytest.raises(BadRecipe, match="publish.s3.url: required"):
        open_publication(make_run(run.parent / "other"), "s3")


def test_a_base_that_a_host_has_no_name_for_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="publish.nebius.base: tiny: state what Nebius Token Factory calls it"):
        refuse_early(_load(tmp_path, {"nebius": {}}))


def test_a_run_whose_gate_did_not_pass_is_published_with_a_warning(tmp_path: Path, run: Path) -> None:
    failed = make_run(run.parent / "failed", gate=PASSED | {"outcome": "fail", "passed": False})
    lines: list[str] = []
    publish_run(open_publication(failed, "s3", [f"publish.s3.url=file://{tmp_path}/failed"]), lines.append)
    assert "its gate has not passed" in lines[0]
    lines.clear()
    publish_run(open_publication(run, "s3"), lines.append)
    assert lines[0].startswith("PUT")
