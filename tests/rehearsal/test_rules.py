"""The rules of Modal that the line leans on, through the real client and container entrypoint."""

import json

import pytest

from tests.rehearsal.conftest import APPS, Stage

RULES = f"{APPS / 'rules.py'}::main"


def run(stage: Stage, what: str, code: int = 0) -> str:
    return stage.modal("run", RULES, "--what", what, code=code)


def test_calls_maps_and_spawned_calls(stage: Stage) -> None:
    out = run(stage, "square")
    assert "squares [0, 1, 4, 9, 16] 49" in out and "spawned 81" in out
    assert "squaring 7 yes" in out  # what a container prints is seen while it runs, and its image's ENV counts


def test_what_raises_is_tried_again(stage: Stage) -> None:
    assert "tries 3" in run(stage, "flaky")


def test_what_takes_too_long_is_ended(stage: Stage) -> None:
    assert "FunctionTimeoutError" in run(stage, "slow", code=1)


def test_a_volume_shows_what_was_committed_and_loses_what_was_not(stage: Stage) -> None:
    out = run(stage, "volume")
    assert "lost False" in out and "saved True" in out and "open files" in out
    assert "mapped: there are open files" in out and "away, back: (True, True)" in out
    listed = stage.modal("volume", "ls", "rules")
    assert "kept" in listed and "saved" in listed and "lost" not in listed  # who ends well commits


def test_a_preempted_input_starts_again_and_counts_no_retry(stage: Stage) -> None:
    stage.ask("disturb/count", {"preempt": [0.5]})
    assert "tries 2" in run(stage, "preempt")


def test_a_lost_container_is_replaced_and_counts_no_retry(stage: Stage) -> None:
    stage.ask("disturb/count", {"kill": [0.5]})
    out = run(stage, "kill")
    assert "was lost: killed" in out and "tries 2" in out


def test_torchrun_runs_in_a_container(stage: Stage) -> None:
    assert "ranks 0 2,1 2" in run(stage, "torchrun")


def test_a_dict_writes_only_what_is_absent(stage: Stage) -> None:
    out = run(stage, "dict")
    assert "first True second False" in out and "value 1 1 none" in out


def test_a_secret_is_named_when_it_is_missing_and_reaches_the_container(stage: Stage) -> None:
    app = f"{APPS / 'secret.py'}::main"
    assert "rules-secret" in stage.modal("run", app, code=1)
    (stage.folder / "secrets/rules-secret.json").write_text(json.dumps({"OTHER": "x"}))
    assert "WORD" in stage.modal("run", app, code=1)
    (stage.folder / "secrets/rules-secret.json").write_text(json.dumps({"WORD": "hush"}))
    assert "word hush" in stage.modal("run", app)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ('gpu="H100:9"', "1 to 8"),
        ('gpu="FOO:2"', "no such kind"),
        ("timeout=90000", "at most 86400"),
        ('schedule=modal.Cron("61 * * * *")', "within 0-59"),
        ('gpu="A10", nonpreemptible=True', "nonpreemptible"),
    ],
)
def test_what_modal_would_refuse_is_refused(stage: Stage, tmp_path_factory, options: str, told: str) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path_factory.mktemp("app") / "wrong.py"
    text = f"import modal\napp = modal.App('wrong')\n@app.function({options})\ndef f():\n    pass\n"
    file.write_text(text)
    assert told in stage.modal("deploy", str(file), code=1)
