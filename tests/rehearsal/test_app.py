"""app.py through the real modal command: the line, preemption, what is deployed, the schedule, the endpoint."""

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AuthenticationError, OpenAI

from stages.artifact import sha256
from tests.conftest import MICRO
from tests.rehearsal.conftest import MODAL, Stage, eventually

ADAPTER = "train/adapter/adapter_model.safetensors"


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def scores(folder: Path) -> list[dict[str, Any]]:
    timing = ("seconds", "tokens_per_second")
    rows = manifest(folder / "evaluate")["metrics"]["scoreboard"]
    return [{key: value for key, value in row.items() if key not in timing} for row in rows]


@pytest.fixture(scope="session")
def cloud(stage: Stage) -> Path:
    """A whole micro run on Modal, with its training preempted three times."""
    run, seen = stage.volume("runs") / "cloud", set[str]()
    process = stage.start(MODAL, "run", "app.py::pipeline", "--recipe", str(MICRO), "--run", "cloud")

    def preempted() -> bool:
        """Once for each of three checkpoints, as soon as it is committed."""
        new = {path.name for path in run.glob("train/**/checkpoint-*")} - seen
        if new and stage.ask("preempt/train_h100", post=True):
            seen.update(new)
            time.sleep(random.Random(len(seen)).random())
        return len(seen) >= 3 or process.poll() is not None

    eventually(preempted, 300)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    assert out.count("was preempted") >= 2
    assert "USD at most" in out and "H100" in out and "cloud is done up to evaluate" in out
    return run


def test_the_pipeline_ends_as_it_does_here_whatever_was_preempted(cloud: Path, home: Path) -> None:
    here = home / "runs/whole"
    assert sha256(cloud / ADAPTER) == sha256(here / ADAPTER)
    assert scores(cloud) == scores(here)


def test_at_most_one_interval_of_steps_is_trained_again(cloud: Path) -> None:
    events = [json.loads(line) for line in (cloud / "events.jsonl").read_text().splitlines()]
    trained = [e["step"] for e in events if e["stage"] == "train" and e["kind"] == "metrics" and "loss" in e]
    starts = sum(e["stage"] == "train" and e["kind"] == "started" for e in events)
    assert set(range(1, 11)) <= set(trained) and starts >= 2
    assert len(trained) - 10 <= 2 * (starts - 1)  # micro saves every two steps


def test_the_same_command_finds_all_finished(stage: Stage, cloud: Path) -> None:
    out = stage.modal("run", "app.py::pipeline", "--recipe", str(MICRO), "--run", "cloud")
    assert out.count("finished already") == 5
    listed = json.loads(stage.tuneline("runs", "ls", "--modal", "--json"))
    assert [run["run"] for run in listed] == ["cloud"]
    assert "ended" in stage.tuneline("runs", "logs", "cloud", "--modal")


def test_bad_input_ends_with_2_and_leaves_nothing(stage: Stage, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(MICRO.read_text().replace("rank: 8", "rnk: 8"))
    assert "did you mean 'rank'" in stage.modal("run", "app.py::train", "--recipe", str(wrong), code=2)
    dear = tmp_path / "dear.yaml"
    dear.write_text(MICRO.read_text() + "compute: {max_cost_usd: 1}\n")
    assert "could cost" in stage.modal("run", "app.py::train", "--recipe", str(dear), code=2)
    assert not (stage.volume("runs") / "wrong").exists() and not (stage.volume("runs") / "dear").exists()


def test_a_call_that_nears_its_end_is_followed_by_another(stage: Stage, tmp_path: Path, home: Path) -> None:
    long = tmp_path / "long.yaml"
    long.write_text(MICRO.read_text().replace("max_steps: 10", "max_steps: 60"))
    words = ("run", "app.py::train", "--recipe", str(long), "--run", "long")
    out = stage.modal(*words, TUNELINE_CALL_HOURS=str(20 / 3600))
    assert "a successor goes on from the checkpoint" in out and "long is done up to train" in out
    assert manifest(stage.volume("runs") / "long/train")["metrics"]["steps"] == 60


def test_a_full_volume_is_called_by_its_name(stage: Stage, cloud: Path) -> None:
    stage.ask("volumes/tuneline-runs", {"most_bytes": 1})
    try:
        out = stage.modal("run", "app.py::prepare", "--recipe", str(MICRO), "--run", "full", code=1)
    finally:
        stage.ask("volumes/tuneline-runs", {"most_bytes": None})
    assert "Volume tuneline-runs took no more" in out
    stage.modal("run", "app.py::prepare", "--recipe", str(MICRO), "--run", "full")


@pytest.fixture(scope="session")
def deployed(stage: Stage, cloud: Path) -> str:
    out = stage.modal("deploy", "app.py")
    return re.findall(r"Endpoint\.serve -> (http\S+)", out)[0]


def test_what_is_deployed_is_what_app_py_says(stage: Stage, deployed: str) -> None:
    functions = stage.ask("apps/tuneline")
    train = functions["train_h100"]
    assert (train["gpu"], train["timeout_s"], train["single_use"]) == ("H100:1", 24 * 3600, True)
    assert train["volumes"] == {"/models": "tuneline-models", "/runs": "tuneline-runs", "/data": "tuneline-data"}
    assert any("torch==2.13.0" in layer for layer in train["layers"])
    assert functions["evaluate_a10"]["gpu"] == "A10:1" and functions["prepare_cpu"]["gpu"] is None
    assert functions["convert_cpu"]["ephemeral_disk_mib"] == 700 * 1024
    assert any("stages/convert/llama_cpp.py" in layer for layer in functions["convert_cpu"]["layers"])
    assert functions["evaluate_promoted_cpu"]["schedule"] == {}  # off as shipped
    endpoint = functions["Endpoint.*"]
    assert endpoint["min_containers"] == 0 and endpoint["scaledown_s"] == 300
    assert endpoint["urls"] == {"serve": deployed}
    assert all(f["timeout_s"] <= 24 * 3600 for f in functions.values())


def test_the_endpoint_and_the_schedule(stage: Stage, deployed: str, cloud: Path) -> None:
    key = stage.tuneline("keys", "add", "maria", "--modal").strip().splitlines()[-1]
    assert httpx.get(f"{deployed}/v1/models", timeout=120).status_code == 401
    stage.tuneline("promote", "cloud", "--as", "router", "--override", "nothing is demanded of micro", "--modal")
    seen: set[int] = set()

    def healthy() -> bool:
        seen.add(httpx.get(f"{deployed}/health", timeout=120).status_code)
        return 200 in seen and httpx.get(f"{deployed}/v1/models", headers={"Authorization": f"Bearer {key}"}).json()[
            "data"
        ] == [{"id": "router", "object": "model", "owned_by": "tuneline"}]

    eventually(healthy, 90)
    client = OpenAI(base_url=f"{deployed}/v1", api_key=key, max_retries=10)
    asked: Any = {"model": "router", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    whole = client.chat.completions.create(**asked, temperature=0).choices[0].message.content
    pieces = client.chat.completions.create(**asked, temperature=0, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == whole
    with pytest.raises(AuthenticationError):
        OpenAI(base_url=f"{deployed}/v1", api_key="tl-no", max_retries=0).models.list()

    earlier = stage.volume("scores") / "router/2020-01-01.json"
    earlier.parent.mkdir(parents=True)
    perfect = {row["suite"]: row | {"name_accuracy": 1.0} for row in scores(cloud) if row["target"] == "tuned-Q4_K_M"}
    earlier.write_text(json.dumps({"suites": perfect}))
    told = stage.ask("trigger/tuneline/evaluate_promoted_cpu", post=True)
    assert told["status"] == 1, told
    today = max(file for file in earlier.parent.glob("*.json"))
    score = json.loads(today.read_text())
    assert today != earlier and score["run"] == "cloud" and "(last)" in score["worse"][0]
    assert not any("(promoted)" in worse for worse in score["worse"])
