"""app.py through the real modal command: the line, preemption, what is deployed, the schedule, the endpoint."""

import itertools
import json
import re
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AuthenticationError, OpenAI

from tests.conftest import MICRO
from tests.rehearsal.conftest import MODAL, Checkout, Stage, eventually
from tests.rehearsal.imports import installed, needed
from tuneline.core.files import sha256

ADAPTER = "train/adapter/adapter_model.safetensors"


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def scores(folder: Path) -> list[dict[str, Any]]:
    timing = ("seconds", "tokens_per_second")
    rows = manifest(folder / "evaluate")["metrics"]["scoreboard"]
    return [{key: value for key, value in row.items() if key not in timing} for row in rows]


def test_the_pipeline_ends_as_it_does_here_whatever_was_preempted(cloud: Path, home: Path) -> None:
    here = home / "runs/whole"
    assert sha256(cloud / ADAPTER) == sha256(here / ADAPTER)
    assert scores(cloud) == scores(here)


def test_at_most_one_interval_of_steps_is_trained_again(cloud: Path) -> None:
    steps = [event["step"] for event in trained(cloud) if event["kind"] == "metrics" and "loss" in event]
    starts = sum(event["kind"] == "started" for event in trained(cloud))
    assert set(range(1, 11)) <= set(steps) and starts >= 2
    assert len(steps) - 10 <= 2 * (starts - 1)  # micro saves every two steps


def test_the_same_command_finds_all_finished(stage: Stage, cloud: Path) -> None:
    out = stage.modal("run", "app.py::pipeline", "--recipe", str(MICRO), "--run", "cloud")
    assert out.count("finished already") == 5
    listed = json.loads(stage.tuneline("runs", "ls", "--modal", "--json"))
    assert [run["run"] for run in listed] == ["cloud"]
    shown = json.loads(stage.tuneline("runs", "show", "cloud", "--modal", "--json"))
    assert shown["evaluate"]["scoreboard"] and "Scoreboard" in stage.tuneline("runs", "show", "cloud", "--modal")
    assert "ended" in stage.tuneline("runs", "logs", "cloud", "--modal")


def test_bad_input_ends_with_2_and_leaves_nothing(stage: Stage, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(MICRO.read_text().replace("rank: 8", "rnk: 8"))
    assert "did you mean 'rank'" in stage.modal("run", "app.py::train", "--recipe", str(wrong), code=2)
    dear = tmp_path / "dear.yaml"
    dear.write_text(MICRO.read_text() + "compute: {max_cost_usd: 1}\n")
    assert "could cost" in stage.modal("run", "app.py::train", "--recipe", str(dear), code=2)
    assert not (stage.volume("runs") / "wrong").exists() and not (stage.volume("runs") / "dear").exists()


def test_a_call_that_nears_its_end_is_followed_by_another_until_cancelled(
    stage: Stage, tmp_path: Path, cloud: Path
) -> None:
    events = trained(cloud)
    first = next(event for event in events if "loss" in event)
    call_s = 5 + 2 * (at(first) - at(events[0]))  # so that a call trains some steps, on a busy machine too
    run, long = stage.volume("runs") / "long", tmp_path / "long.yaml"
    long.write_text(MICRO.read_text().replace("max_steps: 10", "max_steps: 100000"))
    shutil.copytree(cloud / "prepare", run / "prepare")
    words = ("run", "app.py::train", "--recipe", str(long), "--run", "long")
    process = stage.start(MODAL, *words, TUNELINE_CALL_HOURS=str(call_s / 3600))

    def went_on() -> bool:
        """A later call's first step is not the first of all."""
        last = list(itertools.takewhile(lambda event: event["kind"] != "started", reversed(trained(run))))
        steps = [event["step"] for event in last if "loss" in event]
        return process.poll() is not None or (bool(steps) and min(steps) > 1)

    eventually(went_on, 600)
    listed = json.loads(stage.tuneline("runs", "show", "long", "--modal", "--json"))
    assert "train" not in listed and "prepare" in listed
    assert "is cancelled" in stage.tuneline("runs", "cancel", "long", "--modal")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "a successor goes on from the checkpoint" in out
    assert "error: the walk ended without a result: cancelled" in out
    assert "nobody is making it" in stage.tuneline("runs", "cancel", "long", "--modal", code=2)


def test_a_container_trains_in_as_many_processes_as_it_is_told_to(stage: Stage, tmp_path: Path, cloud: Path) -> None:
    pair = tmp_path / "pair.yaml"
    pair.write_text(MICRO.read_text().replace("max_steps: 10", "max_steps: 2") + "compute: {processes: 2}\n")
    shutil.copytree(cloud / "prepare", stage.volume("runs") / "pair/prepare")
    stage.modal("run", "app.py::train", "--recipe", str(pair), "--run", "pair")
    assert any("2 processes, ddp" in event.get("text", "") for event in trained(stage.volume("runs") / "pair"))
    one, two = (losses(stage.volume("runs") / name) for name in ("cloud", "pair"))
    assert two[0] == pytest.approx(one[0], rel=1e-3) and len(two) == 2  # the same rows make a step


def trained(run: Path) -> list[dict[str, Any]]:
    file = run / "events.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [event for event in events if event["stage"] == "train"]


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in trained(run) if event["kind"] == "metrics" and "loss" in event]


def at(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def test_a_full_volume_is_called_by_its_name(stage: Stage, cloud: Path) -> None:
    stage.ask("volumes/tuneline-runs", {"most_bytes": 1})
    try:
        out = stage.modal("run", "app.py::prepare", "--recipe", str(MICRO), "--run", "full", code=1)
    finally:
        stage.ask("volumes/tuneline-runs", {"most_bytes": None})
    assert "Volume tuneline-runs took no more" in out
    stage.modal("run", "app.py::prepare", "--recipe", str(MICRO), "--run", "full")


def test_the_gates_no_is_an_exit_code_of_its_own_and_told(
    stage: Stage, watched: Checkout, cloud: Path, tmp_path: Path, told: list[Any]
) -> None:
    shutil.copytree(cloud, stage.volume("runs") / "refused", ignore=shutil.ignore_patterns("evaluate"))
    strict = tmp_path / "strict.yaml"
    strict.write_text(MICRO.read_text().replace("rows: 16}", "rows: 4, floor: 0.99}"))
    for verb, found in (("evaluate", 4), ("pipeline", 5)):
        out = watched.run(verb, strict, "refused", code=3)
        assert out.count("finished already") == found and "refused is done up to evaluate" in out
        assert "below the floor of 99.0%" in out.rpartition("\nerror: ")[2]
        assert told[-1]["run"] == "refused" and "its gate says no" in told[-1]["text"]


@pytest.fixture(scope="session")
def deployed(watched: Checkout) -> str:
    out = watched.modal("deploy", "app.py")
    return re.findall(r"Endpoint\.serve -> (http\S+)", out)[0]


def test_what_is_deployed_is_what_app_py_says(stage: Stage, deployed: str) -> None:
    functions = stage.ask("apps/tuneline")
    train = functions["train_h100"]
    assert (train["gpu"], train["timeout_s"], train["single_use"]) == ("H100:1", 24 * 3600, True)
    assert train["volumes"] == {"/models": "tuneline-models", "/runs": "tuneline-runs", "/data": "tuneline-data"}
    assert any("torch==2.13.0" in layer for layer in train["layers"])
    assert functions["evaluate_a10"]["gpu"] == "A10:1" and functions["prepare_cpu"]["gpu"] is None
    assert functions["convert_cpu"]["ephemeral_disk_mib"] == 700 * 1024
    assert any("tuneline.engines.llama_cpp.build" in layer for layer in functions["convert_cpu"]["layers"])
    assert functions["scheduled_cpu"]["schedule"]["cron"]["cronString"] == "0 6 * * 1"
    judge = functions["evaluate_promoted_cpu"]
    assert judge["timeout_s"] < 24 * 3600 and judge["memory_limit_mib"] == judge["memory_mib"]  # a bound on its cost
    endpoint = functions["Endpoint.*"]
    assert endpoint["min_containers"] == 0 and endpoint["scaledown_s"] == 300
    assert endpoint["urls"] == {"serve": deployed}
    assert all(f["timeout_s"] <= 24 * 3600 for f in functions.values())


def test_policy_changes_at_once_are_all_kept(stage: Stage, deployed: str) -> None:
    owners = [f"client-{number}" for number in range(4)]
    for verb, kept in (("add", owners), ("revoke", [])):
        commands = [(sys.executable, "-m", "tuneline", "keys", verb, owner, "--modal") for owner in owners]
        processes = [stage.start(*command) for command in commands]
        assert [process.wait(120) for process in processes] == [0, 0, 0, 0]
        listed = stage.tuneline("keys", "ls", "--modal")
        assert [owner for owner in owners if owner in listed] == kept
    assert stage.ask("apps/tuneline")["policy_cpu"]["max_containers"] == 1


STAGES = ("volumes/stage_container.py", "stages/line.py", "stages/stage_process.py", "core/tracking.py", "configs")
RUNS = {
    "fetch_cpu": (*STAGES, "stages/fetch"),
    "prepare_cpu": (*STAGES, "stages/prepare", "engines/providers.py"),
    "train_h100": (*STAGES, "stages/train", "stages/preflight.py"),
    "train_cpu": (*STAGES, "stages/train", "stages/preflight.py"),
    "convert_cpu": (*STAGES, "stages/convert"),
    "convert_compress": (*STAGES, "stages/convert"),
    "evaluate_a10": (*STAGES, "stages/evaluate", "engines"),
    "evaluate_cpu": (*STAGES, "stages/evaluate", "engines"),
    "walk_cpu": ("volumes/pipeline_run.py", "volumes/stage_calls.py"),
    "policy_cpu": ("endpoints/policy.py",),
    "evaluate_promoted_cpu": (*STAGES, "stages/evaluate", "endpoints"),
    "Endpoint.*": ("volumes/endpoint_container.py", "endpoints/gateway.py", "endpoints/engine_pool.py"),
}


def test_an_image_has_what_is_imported_in_it(stage: Stage, deployed: str) -> None:
    functions = stage.ask("apps/tuneline")
    missing = {n: needed(*RUNS[n]) - installed(functions[n]["layers"]) for n in RUNS}
    assert not any(missing.values()), missing


@pytest.fixture(scope="session")
def promoted(stage: Stage, cloud: Path) -> str:
    stage.tuneline("promote", "cloud", "--as", "router", "--override", "nothing is demanded of micro", "--modal")
    return "router"


def test_the_deployed_endpoint(stage: Stage, deployed: str, promoted: str) -> None:
    key = stage.tuneline("keys", "add", "maria", "--modal").strip().splitlines()[-1]
    assert httpx.get(f"{deployed}/health", timeout=120).status_code == 503  # its engine is only being started
    client = OpenAI(base_url=f"{deployed}/v1", api_key=key, max_retries=10)
    asked: Any = {"model": promoted, "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
    first = client.chat.completions.create(**asked, max_tokens=8)  # by itself, a client waits while it boots
    assert httpx.get(f"{deployed}/health", timeout=120).json() == {promoted: "ready"}
    pieces = client.chat.completions.create(**asked, max_tokens=8, stream=True)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == first.choices[0].message.content and first.model == f"{promoted}-1"
    tool: Any = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    called = client.chat.completions.create(**asked, max_tokens=64, tools=[tool], tool_choice="required").choices[0]
    assert called.message.tool_calls and called.message.tool_calls[0].function.name == "now"  # type: ignore[union-attr]

    assert httpx.get(f"{deployed}/v1/models").status_code == 401
    with pytest.raises(AuthenticationError):
        OpenAI(base_url=f"{deployed}/v1", api_key="tl-no", max_retries=0).models.list()
    stage.tuneline("promote", "cloud", "--as", promoted, "--override", "once more", "--modal")
    eventually(lambda: client.chat.completions.create(**asked, max_tokens=1).model == f"{promoted}-2", 60)

    stage.tuneline("keys", "revoke", "maria", "--modal")
    eventually(lambda: httpx.get(f"{deployed}/v1/models", headers=bearer(key)).status_code == 401)


def test_the_schedule_compares_what_is_promoted(
    stage: Stage, deployed: str, promoted: str, cloud: Path, told: list[Any]
) -> None:
    earlier = stage.volume("scores") / promoted / "2020-01-01.json"
    earlier.parent.mkdir(parents=True)
    perfect = {row["suite"]: row | {"name_accuracy": 1.0} for row in scores(cloud) if row["target"] == "tuned-Q4_K_M"}
    earlier.write_text(json.dumps({"suites": perfect}))
    ended = stage.ask("trigger/tuneline/scheduled_cpu", post=True)
    assert ended["status"] == 1, ended
    today = max(file for file in earlier.parent.glob("*.json"))
    score = json.loads(today.read_text())
    assert today != earlier and score["run"] == "cloud" and "(last)" in score["worse"][0]
    assert not any("(promoted)" in worse for worse in score["worse"])
    assert all(score["references"][known] for known in ("last", "promoted", "baseline"))
    assert f"{promoted} (cloud) got worse" in told[-1]["text"] and told[-1]["worse"] == score["worse"]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
