"""The whole line on a tiny Llama, through the command a user types: what it leaves, and what survives kill -9."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import MICRO, environment, tuneline
from tuneline.core import artifacts
from tuneline.core.events import read_events
from tuneline.core.files import sha256
from tuneline.core.paths import ROOT
from tuneline.stages.line import ORDER

SEED = 20261121
REACHED = (
    "prepare/scratch",
    "train/scratch/checkpoints/checkpoint-4/whole.json",
    "convert/scratch/journal",
    "evaluate/answers/unseen_phrasings/base.jsonl",
)
"""Soon after each of these is there, the run is killed."""


def adapter(home: Path, run: str) -> dict[str, str]:
    folder = home / "runs" / run / "train" / "adapter"
    return {file.name: sha256(file) for file in folder.iterdir()}


def started(home: Path, verb: str, run: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tuneline", verb, str(MICRO), "--run", run]
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment(home), cwd=ROOT, start_new_session=True, **nowhere)


def kill(victim: "subprocess.Popen[bytes]") -> None:
    """It and all it started."""
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()


def test_every_stage_leaves_a_manifest_whose_needs_lead_back_to_the_base(home: Path) -> None:
    run = home / "runs" / "whole"
    made = {stage: artifacts.open_artifact(run / stage) for stage in ORDER[1:]}
    base = artifacts.open_artifact(next((home / "models").glob("tiny@*")))
    assert made["train"].manifest.made_from.needs == {
        "fetch": base.manifest.fingerprint,
        "prepare": made["prepare"].manifest.fingerprint,
    }
    assert made["evaluate"].manifest.made_from.needs["convert"] == made["convert"].manifest.fingerprint
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} == set(made["train"].manifest.files)


def test_training_lowers_the_loss_and_tells_how(home: Path) -> None:
    metrics = [e for e in read_events(home / "runs" / "whole") if e["kind"] == "metrics"]
    steps = [e for e in metrics if "loss" in e]
    assert [e["step"] for e in steps] == list(range(1, 11))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(e["gradient_norm"] > 0 and e["tokens_per_second"] > 0 for e in steps)
    assert [e["step"] for e in metrics if "perplexity" in e][:2] == [5, 10]


def test_q4_k_m_really_is_in_k_types(home: Path) -> None:
    files = artifacts.open_artifact(home / "runs" / "whole" / "convert").metrics["files"]
    assert files["tuned-Q4_K_M"]["k_quant_share"] > 0.99
    assert files["tuned-Q4_K_M"]["bytes"] < 0.4 * files["tuned-F16"]["bytes"]


def test_a_second_call_returns_at_once_and_starts_nothing(home: Path) -> None:
    before = len(list(read_events(home / "runs" / "whole")))
    started = time.monotonic()
    done = tuneline(home, "run", str(MICRO), "--run", "whole", "--json")
    assert time.monotonic() - started < 30
    assert json.loads(done.stdout)["scoreboard"]
    assert len(list(read_events(home / "runs" / "whole"))) == before


def test_other_settings_are_refused_with_what_differs(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(MICRO.read_text().replace("rank: 8", "rank: 4"))
    done = tuneline(home, "train", str(other), "--run", "whole", code=2)
    assert "train.rank: 8 there, 4 now" in done.stderr and "--run NEW" in done.stderr


def test_a_run_can_be_shown_and_listed(home: Path) -> None:
    shown = json.loads(tuneline(home, "runs", "show", "whole", "--json").stdout)
    assert shown["train"]["steps"] == 10
    listed = json.loads(tuneline(home, "runs", "ls", "--json").stdout)
    [whole] = [run for run in listed if run["run"] == "whole"]
    assert whole["state"] == "finished" and whole["stages"] == dict.fromkeys(ORDER[1:], "finished")


def test_the_report_is_one_file_without_network(home: Path) -> None:
    page = (home / "runs" / "whole" / "report.html").read_text()
    assert "unseen_phrasings" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "src=" not in page


def test_the_served_model_answers_the_openai_client(home: Path) -> None:
    told = tuneline(home, "chat", "whole", "Send Maria a WhatsApp saying the keys are ready").stdout
    assert "model" in told


def test_killed_in_each_stage_it_ends_with_the_same_adapter_and_answers(home: Path) -> None:
    chance, run = random.Random(SEED), home / "runs" / "killed"
    for reached in REACHED:
        victim = started(home, "run", "killed")
        while victim.poll() is None and not (run / reached).exists():
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        kill(victim)
        assert victim.returncode == -signal.SIGKILL, reached
    tuneline(home, "run", str(MICRO), "--run", "killed")
    assert adapter(home, "killed") == adapter(home, "whole")
    boards = [
        [(row["target"], row["name_accuracy"], row["exact_accuracy"]) for row in found.metrics["scoreboard"]]
        for found in (artifacts.open_artifact(home / "runs" / run / "evaluate") for run in ("whole", "killed"))
    ]
    assert boards[0] == boards[1]


def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(home: Path) -> None:
    victim = started(home, "train", "damaged")
    checkpoints = home / "runs" / "damaged" / "train" / "scratch" / "checkpoints"
    deadline = time.monotonic() + 120
    while not (checkpoints / "checkpoint-4" / "whole.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    kill(victim)
    newest = max(checkpoints.glob("checkpoint-*/whole.json"), key=lambda f: int(f.parent.name.split("-")[1])).parent
    weights = newest / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    tuneline(home, "train", str(MICRO), "--run", "damaged")
    told = [e["text"] for e in read_events(home / "runs" / "damaged") if e["kind"] == "warning"]
    assert f"{newest.name} is skipped: adapter_model.safetensors is damaged" in told
    assert adapter(home, "damaged") == adapter(home, "whole")


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden"])
def test_a_run_name_that_leads_elsewhere_writes_nothing(tmp_path: Path, name: str) -> None:
    done = tuneline(tmp_path, "fetch", str(MICRO), "--run", name, code=2)
    assert "letters, digits" in done.stderr
    assert not list(tmp_path.iterdir())
