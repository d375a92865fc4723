"""Service under load: latency counts from when a request was due, a failure is no fast answer, the gate reads it."""

import json
import stat
import sys
from functools import partial
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scipy.stats import binom

from tests.runs import PASSED, make_run
from tuneline.configs.evaluation import Gate, Service
from tuneline.configs.hardware import hardware
from tuneline.configs.recipe import recipe_of
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import artifacts
from tuneline.core.errors import BadRequest, GateFailed, NotFound, StageFailed
from tuneline.core.paths import ROOT
from tuneline.endpoints.promotion import promote
from tuneline.stages.evaluate.load_testing.guidellm import (
    LoadResult,
    Requests,
    report_figures,
    send_load,
    write_load_result,
)
from tuneline.stages.evaluate.load_testing.load_test import load_test
from tuneline.stages.evaluate.statistics import quantile_bound
from tuneline.stages.evaluate.targets import hash_served_files
from tuneline.stages.evaluate.verdicts import gate
from tuneline.stages.run_artifacts import open_stage


def report(waits: list[float], failed: int = 0) -> dict[str, Any]:
    """A request is due every second; each waits before it is sent, then takes 0.1 s to its first token and 0.2 more."""

    def timings(due: int, wait: float) -> dict[str, float]:
        sent = due + wait
        return {
            "targeted_start": due,
            "request_start": sent,
            "first_token_iteration": sent + 0.1,
            "request_end": sent + 0.3,
        }

    done = [{"info": {"timings": timings(i, wait)}, "output_tokens": 8} for i, wait in enumerate(waits)]
    requests = {"successful": done, "errored": [{}] * failed, "incomplete": []}
    return {"metadata": {"guidellm_version": "0.8.1"}, "benchmarks": [{"requests": requests}]}


def test_a_request_that_had_to_wait_is_not_flattered() -> None:
    found = report_figures(report([0.0] * 9 + [5.0]))
    assert found and found["latencies"][-1] == pytest.approx(5.3) and found["latencies"][0] == pytest.approx(0.3)
    assert found["first_tokens"][-1] == pytest.approx(5.1)
    assert found["requests_per_second"] == pytest.approx(10 / 14.3)
    assert report_figures(report([], failed=3)) is None


def load_of(latencies: list[float], errors: int = 0, **changed: Any) -> LoadResult:
    told = {"endpoint": "http://here/v1", "model": "m", "convert": None, "at": "2026-11-21T00:00:00Z", "tool": "t"}
    told |= {"rate": 2.0, "requests": len(latencies) + errors, "errors": errors, "requests_per_second": 1.9}
    told |= {"latencies": latencies, "first_tokens": latencies, "tokens_per_second": 9.0, "memory_gb": 0.5}
    return LoadResult.model_validate(
        told | {"hardware": "A10", "usd_per_hour": 1.1, "usd_per_1000_queries": 0.16} | changed
    )


def test_a_failure_is_an_endless_latency() -> None:
    found = load_of([0.1] * 90, errors=10)
    assert found.latency(0.5) == 0.1 and found.latency(0.95) == inf


def test_a_quantile_is_bounded_by_an_order_statistic() -> None:
    assert quantile_bound(range(58), 0.95, 0.95) is None  # 0.95^58 > 5 %: even the largest may lie below
    assert quantile_bound(range(59), 0.95, 0.95) == 58
    for n, share in ((59, 0.95), (200, 0.5), (1000, 0.95), (3000, 0.99)):
        assert quantile_bound(range(n), share, 0.95) == binom.ppf(0.95, n, share)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    wanted = Service(p95_latency_s=0.5, requests_per_second=1.0, memory_gb=1.0, usd_per_1000_queries=1.0)
    recipe = load_recipe(ROOT / "configs/recipes/demo.yaml")
    evaluate = recipe.evaluate.model_copy(update={"gate": Gate(service=wanted)})
    return make_run(tmp_path / "demo", recipe.model_copy(update={"evaluate": evaluate}), PASSED)


def outcome(run: Path, found: LoadResult) -> tuple[str, str]:
    files = hash_served_files(run, recipe_of(run).serve)
    write_load_result(run, found.model_copy(update={"files": found.files or files}))
    told = gate.gate_of_run(run, open_stage(run, "evaluate").metrics["gate"])
    return told["outcome"], "\n".join(told["unmet"])


def test_the_gate_reads_what_was_measured_of_these_files(run: Path) -> None:
    with pytest.raises(GateFailed, match="not measured; run `tuneline load demo`"):
        gate.require_pass(artifacts.open_artifact(run / "evaluate"))
    assert outcome(run, load_of([0.1] * 200)) == ("pass", "")
    gate.require_pass(artifacts.open_artifact(run / "evaluate"))
    assert promote("demo", "router").gate == "pass"
    assert outcome(run, load_of([0.1] * 20))[0] == "insufficient evidence"  # no bound from twenty
    assert outcome(run, load_of([0.1] * 180 + [0.9] * 20))[0] == "fail"
    assert "of 200 requests at 2 per second failed" in outcome(run, load_of([0.1] * 190, errors=10))[1]
    assert outcome(run, load_of([0.1] * 200, memory_gb=None))[0] == "insufficient evidence"
    assert outcome(run, load_of([0.1] * 200, usd_per_1000_queries=2.0))[0] == "fail"
    state, told = outcome(run, load_of([0.1] * 200, files={"convert/tuned-Q4_K_M.gguf": "other"}))
    assert state == "insufficient evidence" and "other files" in told
    with pytest.raises(GateFailed, match="other files"):
        promote("demo", "router")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_result_is_no_measurement(run: Path, content: bytes) -> None:
    (run / "load.json").write_bytes(content)
    with pytest.raises(GateFailed, match="not measured; run `tuneline load demo`"):
        promote("demo", "router")


def test_no_demand_leaves_the_gate_as_it_was(tmp_path: Path, run: Path) -> None:
    plain = make_run(tmp_path / "plain", load_recipe(ROOT / "configs/recipes/demo.yaml"), PASSED)
    decided = open_stage(plain, "evaluate").metrics["gate"]
    assert gate.gate_of_run(plain, decided) == decided


def test_a_demand_cannot_be_taken_back_after_the_evaluation(run: Path) -> None:
    (run / "recipe.json").write_text(load_recipe(ROOT / "configs/recipes/demo.yaml").model_dump_json())
    with pytest.raises(GateFailed, match="not measured"):
        promote("demo", "router")


def test_a_result_of_before_says_how_to_measure_again(run: Path) -> None:
    old = json.loads(load_of([0.1] * 200, convert="0123456789abcdef").model_dump_json())
    del old["files"]
    (run / "load.json").write_text(json.dumps(old))
    with pytest.raises(GateFailed, match="measured on other files; run `tuneline load demo` again"):
        promote("demo", "router")


def test_another_engine_and_file_than_what_is_served_is_told(run: Path) -> None:
    """`tuneline load RUN` serves a GGUF file; what goes live may be the merged model in vLLM."""
    decided = open_stage(run, "evaluate").metrics["gate"] | {"files": {"convert/merged/model.safetensors": "1"}}
    write_load_result(run, load_of([0.1] * 200, files={"convert/tuned-Q4_K_M.gguf": "0"}))
    (reason,) = gate.gate_of_run(run, decided)["open"]
    assert "measured on convert/tuned-Q4_K_M.gguf, and convert/merged/model.safetensors is what is served" in reason
    assert "`tuneline load URL --for demo`" in reason


def test_the_cost_is_that_of_the_machine_that_answered(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe's evaluation is on an A10 on Modal: its price says nothing of how fast this machine is."""
    (tmp_path / "report.json").write_text(json.dumps(report([0.0] * 36)))
    copy = 'spec = json.load(open(sys.argv[sys.argv.index("--config") + 1]))["spec"]\n'
    copy += f'open(spec["outputs"][0]["path"], "w").write(open({str(tmp_path / "report.json")!r}).read())'
    fake(tmp_path, monkeypatch, copy)
    monkeypatch.setattr("tuneline.stages.evaluate.load_testing.load_test.find_only_model", lambda url: "demo")
    here = partial(load_test, None, run, SimpleNamespace(base_url="http://h/v1", process=SimpleNamespace(pid=1)))
    there = partial(load_test, "http://there/v1", run, None)
    of_a10 = 3600 * hardware().usd_per_second("A10", 2, 4)
    known = {
        "nobody said": (here(rate=1, seconds=36), None),
        "an hour here": (here(rate=1, seconds=36, usd_per_hour=0.5), 0.5),
        "somewhere": (there(rate=1, seconds=36), None),
        "a GPU there": (there(rate=1, seconds=36, gpu="A10"), of_a10),
    }
    for name, (result, price) in known.items():
        expected = None if price is None else pytest.approx(1000 * price / 3600 / result.requests_per_second)
        assert (result.usd_per_hour, result.usd_per_1000_queries) == (price and pytest.approx(price), expected), name
    assert "core" in str(known["nobody said"][0].hardware) and known["somewhere"][0].hardware is None
    write_load_result(run, known["nobody said"][0])
    told = gate.gate_of_run(run, open_stage(run, "evaluate").metrics["gate"])["open"]
    assert any("price of" in line and "--usd-per-hour PRICE" in line for line in told)
    monkeypatch.setenv("TUNELINE_USD_PER_HOUR", "0.25")
    assert here(rate=1, seconds=36).usd_per_hour == 0.25
    with pytest.raises(BadRequest, match="the model is served on this machine"):
        here(rate=1, seconds=36, gpu="A10")


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A guidellm that keeps its scenario and writes a report, or does not."""
    command = tmp_path / "guidellm"
    command.write_text(f"#!{sys.executable}\nimport json, os, sys\n{body}")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("TUNELINE_GUIDELLM", str(command))


def test_guidellm_is_asked_for_an_open_loop_and_for_every_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report([0.0] * 30)))
    body = f"""
spec = json.load(open(sys.argv[sys.argv.index("--config") + 1]))["spec"]
spec["prompts"] = open(spec["data"][0]["path"]).read().splitlines()
spec["workers"] = os.environ["GUIDELLM__MAX_WORKER_PROCESSES"]
json.dump(spec, open({str(tmp_path / "spec.json")!r}, "w"))
open(spec["outputs"][0]["path"], "w").write(open({str(tmp_path / "report.json")!r}).read())
"""
    fake(tmp_path, monkeypatch, body)
    tools = [{"type": "function", "function": {"name": "f"}}]
    found = send_load(
        Requests("http://h/v1", "m", ["a", "b"], system="s", tools=tools), rate=2, seconds=15, usd_per_hour=3.6
    )
    spec = json.loads((tmp_path / "spec.json").read_text())
    assert spec["profile"] == {"kind": "poisson", "rate": [2]} and spec["workers"] == "1"
    assert spec["constraints"] == [{"kind": "max_requests", "count": 30}] and spec["backend"]["target"] == "http://h"
    assert len(spec["prompts"]) == 30 and json.loads(spec["prompts"][0])["prefix"] == "s"
    assert spec["backend"]["extras"]["body"]["tools"] == tools
    assert found.requests == 30 and found.usd_per_1000_queries == pytest.approx(1 / found.requests_per_second)


def test_what_goes_wrong_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "sys.exit('no such backend')")
    with pytest.raises(StageFailed, match="no such backend"):
        send_load(Requests("http://h/v1", "m", ["a"]), rate=1, seconds=1)
    monkeypatch.setenv("TUNELINE_GUIDELLM", str(tmp_path / "none"))
    with pytest.raises(NotFound, match="package_locks .load .*requirements/load.txt"):
        send_load(Requests("http://h/v1", "m", ["a"]), rate=1, seconds=1)
