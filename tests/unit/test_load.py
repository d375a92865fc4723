"""Service under load: latency counts from when a request was due, a failure is no fast answer, the gate reads it."""

import json
import stat
import sys
from math import inf
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binom

from tuneline.configs.evaluation import Gate, Service
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import artifacts
from tuneline.core.errors import GateFailed, NotFound, StageFailed
from tuneline.core.paths import ROOT
from tuneline.endpoints.promotion import promote
from tuneline.stages.evaluate.load_testing.guidellm import (
    LoadResult,
    Requests,
    report_figures,
    send_load,
    write_load_result,
)
from tuneline.stages.evaluate.statistics import quantile_bound
from tuneline.stages.evaluate.verdicts import gate

PASSED = {"outcome": "pass", "passed": True, "demands": 1, "reasons": ["fine"], "unmet": [], "open": []}


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
    wanted = Service(p95_latency_s=0.5, requests_per_second=1.0, memory_gb=1.0, usd_per_1000_queries=1.0)
    recipe = load_recipe(ROOT / "configs/recipes/demo.yaml")
    evaluate = recipe.evaluate.model_copy(update={"gate": Gate(service=wanted)})
    run = tmp_path / "demo"
    artifacts.make(run / "convert", stage_version=1, settings={}, needs={}, build=lambda _: {})
    artifacts.make(run / "evaluate", stage_version=1, settings={}, needs={}, build=lambda _: {"gate": PASSED})
    (run / "recipe.json").write_text(recipe.model_copy(update={"evaluate": evaluate}).model_dump_json())
    return run


def outcome(run: Path, found: LoadResult) -> tuple[str, str]:
    fingerprint = artifacts.open_artifact(run / "convert").manifest.fingerprint
    write_load_result(run, found.model_copy(update={"convert": found.convert or fingerprint}))
    told = gate.gate_of_run(run, PASSED)
    return told["outcome"], "\n".join(told["unmet"])


def test_the_gate_reads_what_was_measured_of_these_files(run: Path) -> None:
    with pytest.raises(GateFailed, match="not measured; `tuneline load demo` does"):
        gate.require_pass(artifacts.open_artifact(run / "evaluate"))
    assert outcome(run, load_of([0.1] * 200)) == ("pass", "")
    gate.require_pass(artifacts.open_artifact(run / "evaluate"))
    assert promote("demo", "router").gate == "pass"
    assert outcome(run, load_of([0.1] * 20))[0] == "insufficient evidence"  # no bound from twenty
    assert outcome(run, load_of([0.1] * 180 + [0.9] * 20))[0] == "fail"
    assert "of 200 requests at 2 a second failed" in outcome(run, load_of([0.1] * 190, errors=10))[1]
    assert outcome(run, load_of([0.1] * 200, memory_gb=None))[0] == "insufficient evidence"
    assert outcome(run, load_of([0.1] * 200, usd_per_1000_queries=2.0))[0] == "fail"
    state, told = outcome(run, load_of([0.1] * 200, convert="other"))
    assert state == "insufficient evidence" and "other files" in told
    with pytest.raises(GateFailed, match="other files"):
        promote("demo", "router")


def test_no_demand_leaves_the_gate_as_it_was(run: Path) -> None:
    recipe = load_recipe(ROOT / "configs/recipes/demo.yaml")
    (run / "recipe.json").write_text(recipe.model_dump_json())
    assert gate.gate_of_run(run, PASSED) == PASSED


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
    with pytest.raises(NotFound, match="pip install guidellm==0.8.1"):
        send_load(Requests("http://h/v1", "m", ["a"]), rate=1, seconds=1)
