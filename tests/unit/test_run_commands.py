"""`tuneline runs show`, `logs -f`, `cancel` and `resume`, as a user types them."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.runs import MICRO, make_run, remove
from tests.unit.test_run_list import begin_run, record, runs  # noqa: F401
from tuneline.cli import app
from tuneline.configs.recipe import RECIPE
from tuneline.core.errors import BadRecipe, NotFound
from tuneline.core.events import Events
from tuneline.core.locks import pipeline_lock
from tuneline.endpoints.run_list import list_runs


def invoke(*words: str) -> str:
    done = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["runs", *words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_show_says_what_each_stage_took_and_why_it_failed(runs: Path) -> None:  # noqa: F811
    run = begin_run(runs / "a")
    record(run, "prepare", "finished", began=1e9, seconds=3600, usd=0.5)
    record(run, "train", "ended", began=1e9 + 1, seconds=3600, usd=4.0)
    record(run, "train", "ended", began=1e9 + 2, seconds=1800, usd=4.0)
    text = invoke("show", "a")
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["prepare"][1:5] == ["finished", "1", "1.00", "0.50"]
    assert rows["train"][1:5] == ["interrupted", "2", "1.50", "6.00"]
    assert rows["state:"][1:] == ["interrupted"] and "next: tuneline runs resume a" in text
    assert json.loads(invoke("show", "a", "--json"))["prepare"]["rows_train"] == 90


def test_logs_follow_a_run_until_it_ends(runs: Path) -> None:  # noqa: F811
    run, events = begin_run(runs / "a"), 40

    def work(held: threading.Event) -> None:
        with pipeline_lock(run, "evaluate"):
            held.set()
            for step in range(events):
                Events(run, "train").emit("metrics", step=step + 100, steps=200, loss=1.0)
                time.sleep(0.05)

    held = threading.Event()
    worker = threading.Thread(target=work, args=(held,))
    worker.start()
    held.wait()
    lines = invoke("logs", "a", "-f").splitlines()
    assert not worker.is_alive() or not worker.join()
    assert [int(line.split("step=")[1].split()[0]) for line in lines[-events:]] == list(range(100, 100 + events))


def test_a_run_is_cancelled_and_resumed_by_what_it_kept(runs: Path, tmp_path: Path) -> None:  # noqa: F811
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(MICRO.model_dump_json())
    words = [sys.executable, "-m", "tuneline", "prepare", str(recipe), "--run", "a"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        deadline = time.monotonic() + 120
        while not (list_runs() and list_runs()[0].stage == "prepare"):
            assert time.monotonic() < deadline and process.poll() is None
        assert f"process {process.pid} " in (said := invoke("cancel", "a")) and "tuneline runs resume a" in said
        assert process.wait(60) == 128 + 15
    assert list_runs()[0].state == "interrupted"
    recipe.unlink()
    invoke("resume", "a")  # up to prepare, as it was started
    assert (list_runs()[0].state, list_runs()[0].stage) == ("partial", "prepare")
    with pytest.raises(NotFound, match="no process is working on it"):
        invoke("cancel", "a")


def test_a_recipe_whose_files_or_credentials_are_elsewhere_is_not_resumed(runs: Path) -> None:  # noqa: F811
    run = make_run(runs / "a")
    remove(run, "evaluate")
    kept = (run / RECIPE).read_text()
    (run / RECIPE).write_text(kept.replace("data/requests/train.yaml", "/data/0123/train.yaml"))
    with pytest.raises(BadRecipe, match=r"(?s)/data/0123/train.yaml: no such file.*tuneline run FILE --run a"):
        invoke("resume", "a")
    (run / RECIPE).write_text(kept.replace('"name":"micro"', '"name":"https://***@host"'))
    with pytest.raises(BadRecipe, match="credentials, which are not kept"):
        invoke("resume", "a")
