"""app.py through the real modal command: the line, preemption, what is deployed, the schedule, the endpoint."""

import itertools
import json
import os
import re
import shutil
import subprocess
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
from tuneline.core.package_locks import CHECKED
from tuneline.core.paths import ROOT
from tuneline.images.llama import BUILD_COMMAND
from tuneline.rehearsal.apps import IMAGE_BUILDERS

ADAPTER = "train/adapter/adapter_model.safetensors"


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def test_the_pipeline_ends_as_it_does_here_whatever_was_preempted(cloud: Path, home: Path) -> None:
    here = home / "runs/whole"
    assert sha256(cloud / ADAPTER) == sha256(here / ADAPTER)
    assert converted_files(cloud) == converted_files(here)
    assert len(scores(cloud)) == 3  # the base and two files
    for there, one in zip(scores(cloud), scores(here), strict=True):
        assert [there[key] for key in ("suite", "target", "n")] == [one[key] for key in ("suite", "target", "n")]
        for share in ("name_accuracy", "exact_accuracy", "json_valid"):
            # llama.cpp rounds otherwise in other batches: where two tokens are as likely, one answer in 16 may differ.
            assert there[share] == pytest.approx(one[share], abs=1.01 / 16)


def scores(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = manifest(run / "evaluate")["metrics"]["scoreboard"]
    return rows


def converted_files(run: Path) -> dict[str, str]:
    return {name: file["sha256"] for name, file in manifest(run / "convert")["files"].items() if name.endswith(".gguf")}


def test_at_most_one_interval_of_steps_is_trained_again(cloud: Path) -> None:
    steps = [event["step"] for event in trained(cloud) if event["kind"] == "metrics" and "loss" in event]
    starts = sum(event["kind"] == "started" for event in trained(cloud))
    assert set(range(1, 11)) <= set(steps) and starts >= 2
    assert len(steps) - 10 <= 2 * (starts - 1)  # micro saves every two steps


def test_only_what_a_recipe_calls_is_created_and_built(stage: Stage, cloud: Path) -> None:
    """The first run of a CPU recipe waits for no CUDA, no vLLM and no llmcompressor; llama.cpp is compiled once."""
    plane = stage.rehearsal.plane
    app = next(app for app in plane.state.apps.values() if "pipeline_cpu" in app.functions)
    stages = {"fetch_cpu", "prepare_cpu", "train_cpu", "convert_cpu", "evaluate_cpu"}
    functions = plane.describe_functions(app)
    assert set(functions) == stages | {"pipeline_cpu"}
    layers = "\n".join(layer for function in functions.values() for layer in function["layers"])
    assert "bitsandbytes==" in layers and not re.search(r"^(vllm|nvidia-|triton)", layers, re.M)


def test_the_same_command_finds_all_finished(stage: Stage, cloud: Path) -> None:
    out = stage.modal("run", "app.py::pipeline", "--recipe", str(MICRO), "--run", "cloud")
    assert out.count("already finished") == 5
    listed = json.loads(stage.tuneline("runs", "ls", "--modal", "--json"))
    (cloud_run,) = (run for run in listed if run["where"] == "modal")
    assert (cloud_run["run"], cloud_run["state"]) == ("cloud", "finished") and 0 < cloud_run["usd"] < 1
    spent = [line for line in json.loads(stage.tuneline("cost", "--modal", "--json")) if line["name"] == "cloud"]
    assert sum(line["usd"] for line in spent) == pytest.approx(cloud_run["usd"])  # preempted attempts included
    assert {(line["where"], line["price"].partition(" of ")[0]) for line in spent} == {
        ("modal", "configs/hardware.yaml")
    }
    shown = json.loads(stage.tuneline("runs", "show", "cloud", "--modal", "--json"))
    assert shown["evaluate"]["scoreboard"] and "Scoreboard" in stage.tuneline("runs", "show", "cloud", "--modal")
    assert "ended" in stage.tuneline("runs", "logs", "cloud", "--modal")


def test_the_hint_brings_the_whole_run_here(stage: Stage, cloud: Path, tmp_path: Path) -> None:
    words = ("run", f"{ROOT / 'app.py'}::fetch", "--recipe", str(MICRO), "--run", "cloud")
    hint = stage.modal(*words, cwd=tmp_path).partition("To download it:\n")[2].splitlines()[0].strip()
    command = hint.replace("&& modal ", f"&& {MODAL} ")
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=os.environ | stage.environment, check=True)
    here = tmp_path / ".runs/cloud"
    assert all(manifest(here / name) == manifest(cloud / name) for name in ("prepare", "train", "convert", "evaluate"))
    assert sha256(here / ADAPTER) == sha256(cloud / ADAPTER) and (here / "recipe.json").exists()


def test_bad_input_ends_with_2_and_leaves_nothing(stage: Stage, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(MICRO.read_text().replace("rank: 8", "rnk: 8"))
    images = set(stage.rehearsal.plane.state.images)
    assert "did you mean 'rank'" in stage.modal("run", "app.py::train", "--recipe", str(wrong), code=2)
    for name, text, reason in (
        ("unpinned", "base: meta-llama/Llama-3.1-8B-Instruct", "a hub id needs its commit"),
        ("idle", "base: tiny\ncompute: {evaluate: {gpu: A10}}", "would be idle"),
    ):
        wrong.write_text(MICRO.read_text().replace("base: tiny", text) + f"name: {name}\n")
        assert reason in stage.modal("run", "app.py::train", "--recipe", str(wrong), code=2)
    assert set(stage.rehearsal.plane.state.images) == images  # nothing is built for what cannot run
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
    assert process.returncode == 1 and "a successor resumes from the checkpoint" in out
    assert "error: the pipeline run ended without a result: cancelled" in out
    assert "it is not running on Modal" in stage.tuneline("runs", "cancel", "long", "--modal", code=2)


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
    assert "Volume tuneline-runs is full" in out
    stage.modal("run", "app.py::prepare", "--recipe", str(MICRO), "--run", "full")


def test_the_gates_no_is_an_exit_code_of_its_own_and_told(
    stage: Stage, watched: Checkout, cloud: Path, tmp_path: Path, told: list[Any]
) -> None:
    shutil.copytree(cloud, stage.volume("runs") / "refused", ignore=shutil.ignore_patterns("evaluate"))
    strict = tmp_path / "strict.yaml"
    strict.write_text(MICRO.read_text().replace("rows: 16}", "rows: 4, floor: 0.99}"))
    for verb, found in (("evaluate", 4), ("pipeline", 5)):
        out = watched.run(verb, strict, "refused", code=3)
        assert out.count("already finished") == found and "refused is finished up to evaluate" in out
        assert "below the floor of 99.0%" in out.rpartition("\nerror: ")[2]
        assert told[-1]["run"] == "refused" and "its gate failed" in told[-1]["text"]


@pytest.fixture(scope="session")
def deployed(stage: Stage, watched: Checkout) -> str:
    """The address of the gateway."""
    stage.modal("secret", "create", "tuneline-proxy", "TUNELINE_PROXY_KEY=wk-1", "TUNELINE_PROXY_SECRET=ws-1")
    out = watched.modal("deploy", "app.py")
    return re.findall(r"Gateway\.serve -> (http\S+)", out)[0]


def until_built(layers: list[str]) -> tuple[str, ...]:
    """Layers up to the one that compiles llama.cpp; none if no layer does."""
    last = max((index for index, layer in enumerate(layers) if BUILD_COMMAND in layer), default=-1)
    return tuple(layers[: last + 1])


def test_what_is_deployed_is_what_app_py_says(stage: Stage, deployed: str) -> None:
    functions = stage.ask("apps/tuneline")
    train = functions["train_h100"]
    assert (train["gpu"], train["timeout_s"], train["single_use"]) == ("H100:1", 24 * 3600, True)
    assert train["volumes"] == {"/models": "tuneline-models", "/runs": "tuneline-runs", "/data": "tuneline-data"}
    assert any("torch==2.13.0" in layer for layer in train["layers"])
    # convert, compress and evaluate begin with the same image.
    assert len({start for function in functions.values() if (start := until_built(function["layers"]))}) == 1
    assert not any("data/requests" in name for name in functions["prepare_cpu"]["mounted"])
    assert functions["evaluate_a10"]["gpu"] == "A10:1" and functions["prepare_cpu"]["gpu"] is None
    assert functions["convert_cpu"]["ephemeral_disk_mib"] == 700 * 1024
    assert any("tuneline.engines.llama_cpp.build" in layer for layer in functions["convert_cpu"]["layers"])
    assert functions["scheduled_cpu"]["schedule"]["cron"]["cronString"] == "0 6 * * 1"
    judge = functions["evaluate_promoted_cpu"]
    assert judge["timeout_s"] < 24 * 3600 and judge["memory_limit_mib"] == judge["memory_mib"]  # a bound on its cost
    endpoint, gateway = functions["Endpoint.*"], functions["Gateway.*"]
    assert gateway["memory_limit_mib"] == gateway["memory_mib"]
    assert (
        endpoint["min_containers"] == gateway["min_containers"] == 0
        and endpoint["scaledown_s"] == 300
        and endpoint["max_containers"] == 4
    )
    assert (gateway["max_containers"], endpoint["max_containers"]) == (1, 4)
    assert gateway["urls"] == {"serve": deployed} and gateway["gpu"] is None
    assert gateway["volumes"] == {"/policy": "tuneline-policy", "/logs": "tuneline-logs"}
    assert "Page.*" not in functions and not (stage.volume("ui")).exists()  # `ui: false`
    assert not any("tuneline/ui/" in name for function in functions.values() for name in function["mounted"])
    assert httpx.get(endpoint["urls"]["serve"]).status_code == 401  # by Modal: nothing is started for a stranger
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
    "pipeline_cpu": ("volumes/pipeline_run.py", "volumes/stage_calls.py"),
    "policy_cpu": ("endpoints/policy.py", "volumes/run_removal.py"),
    "evaluate_promoted_cpu": (*STAGES, "stages/evaluate", "endpoints/scheduled_evaluation.py"),
    "Endpoint.*": ("volumes/endpoint_container.py", "endpoints/engine_api.py", "endpoints/engine_pool.py"),
    "Gateway.*": ("volumes/gateway_container.py", "endpoints/gateway", "endpoints/remote_engines.py"),
}


def test_an_image_has_what_is_imported_in_it(stage: Stage, deployed: str) -> None:
    functions = stage.ask("apps/tuneline")
    missing = {n: needed(*RUNS[n]) - installed(functions[n]["layers"]) for n in RUNS}
    assert not any(missing.values()), missing


@pytest.mark.parametrize("builder", IMAGE_BUILDERS)
def test_nothing_is_installed_in_an_image_without_its_hash(stage: Stage, watched: Checkout, builder: str) -> None:
    """On each base image of Modal's: Python, and whose C compiler it is, are of its Debian."""
    stage.rehearsal.plane.image_builder = builder
    watched.modal("deploy", "app.py")
    debian = {"2026.10": "trixie", "2025.06": "bookworm"}[builder]
    for name, function in stage.ask("apps/tuneline").items():
        base = next(layer for layer in function["layers"] if layer.startswith("FROM python:"))
        assert base.startswith("FROM python:3.12") and base.endswith(f"-slim-{debian}")
        assert "RUN apt-get install -y gcc gfortran build-essential" in function["layers"]  # llama.cpp and Triton
        installs = [layer for layer in function["layers"] if re.search(r"pip\S* install", layer)]
        assert installs[0] == "RUN pip install --upgrade pip wheel uv"  # in Modal's own base; pip.txt comes next
        assert installs[1:] and all(layer.endswith(" ".join(CHECKED)) for layer in installs[1:]), name


@pytest.fixture(scope="session")
def promoted(stage: Stage, cloud: Path) -> str:
    stage.tuneline("promote", "cloud", "--as", "router", "--override", "nothing is demanded of micro", "--modal")
    return "router"


def test_the_deployed_gateway(stage: Stage, deployed: str, promoted: str, cloud: Path) -> None:
    said = stage.tuneline("keys", "add", "maria", "--modal").splitlines()  # the key, and what to do with it
    key = next(line for line in said if line.startswith("tl-"))
    stage.rehearsal.plane.reload_seconds = 0.3  # the policy Volume is empty for so long, every few seconds
    ready = httpx.get(f"{deployed}/ready", timeout=120)
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    client = OpenAI(base_url=f"{deployed}/v1", api_key=key, max_retries=0)
    asked: Any = {"model": promoted, "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
    first = client.chat.completions.create(**asked, max_tokens=8)  # it waits for the engine, which slept
    pieces = client.chat.completions.create(**asked, max_tokens=8, stream=True)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == first.choices[0].message.content and first.model == f"{promoted}-1"
    tool: Any = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    called = client.chat.completions.create(**asked, max_tokens=64, tools=[tool], tool_choice="required").choices[0]
    assert called.message.tool_calls and called.message.tool_calls[0].function.name == "now"  # type: ignore[union-attr]

    for path in ("/v1/models", "/metrics"):
        stranger = httpx.get(f"{deployed}{path}")
        assert stranger.status_code == 401 and promoted not in stranger.text
    with pytest.raises(AuthenticationError):
        OpenAI(base_url=f"{deployed}/v1", api_key="tl-no", max_retries=0).models.list()
    assert [model.id for model in client.models.list()] == [promoted]

    # A run that was made after the container started: its Volume is reloaded while engines run.
    shutil.copytree(cloud, stage.volume("runs") / "later")
    stage.tuneline("promote", "later", "--as", promoted, "--override", "a later run", "--modal")
    answers: list[str] = []

    def answered_by(version: int) -> bool:
        answers.append(client.chat.completions.create(**asked, max_tokens=1).model)
        return answers[-1] == f"{promoted}-{version}"

    eventually(lambda: answered_by(2), 60)
    assert answers == sorted(answers)  # nothing was answered by the version before, once the new one had answered
    stage.tuneline("keys", "revoke", "maria", "--modal")
    eventually(lambda: httpx.get(f"{deployed}/v1/models", headers=bearer(key)).status_code == 401)
    lines = [json.loads(line) for file in stage.volume("logs").glob("requests/*") for line in file.open()]
    assert {line["answered_by"] for line in lines} >= {f"{promoted}-1", f"{promoted}-2"}
    ledgers = stage.volume("logs") / ".ledger"
    eventually(lambda: {file.name.partition("-")[0] for file in ledgers.glob("*")} == {"gateway", "engines"}, 60)
    spent = json.loads(stage.tuneline("cost", "--modal", "--json"))
    assert all(sum(line["usd"] for line in spent if line["name"] == name) > 0 for name in ("gateway", "engines"))


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
    assert today != earlier and score["run"] == "later" and "(last)" in score["worse"][0]
    assert not any("(promoted)" in worse for worse in score["worse"])
    assert all(score["references"][known] for known in ("last", "promoted", "baseline"))
    assert (
        "worse" in stage.tuneline("scores", promoted, "--modal")
        and len(list(earlier.parents[1].glob(".ledger/*"))) == 1
    )
    assert f"{promoted} (later) got worse" in told[-1]["text"] and told[-1]["worse"] == score["worse"]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
