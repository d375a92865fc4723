"""Metrics: counted, bounded, with the engines' own; and a dashboard that asks for metrics that there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.misbehaving import Connection, MisbehavingUpstream, NoEngines, running, serving, target
from tuneline.core.paths import ROOT
from tuneline.endpoints.engine_address import EngineAddress

GAUGE = "llamacpp:requests_deferred"
ENGINE = f"# HELP {GAUGE} x\n# TYPE {GAUGE} gauge\n{GAUGE} 0.25\n"


class OneEngine(NoEngines):
    """An engine whose metrics a file server has."""

    def __init__(self, url: str) -> None:
        self.url = url

    def states(self) -> dict[str, str]:
        return {"router": "ready"}

    def resolve(self, name: str) -> EngineAddress:
        return EngineAddress(self.url, {"model": name}) if name == "router" else super().resolve(name)


@pytest.fixture
def upstream() -> Iterator[MisbehavingUpstream]:
    async def fails(c: Connection) -> None:
        await c.error(503)

    with running(MisbehavingUpstream({"down": fails})) as server:
        yield server


@pytest.fixture
def text(tmp_path: Path, upstream: MisbehavingUpstream, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the metrics after some requests."""
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    monkeypatch.setattr("tuneline.endpoints.gateway.metrics._read", read_engine)
    down, good = target(upstream, "down", retries=0), target(upstream, "good", completion_usd_per_million=10,
                                                             budget_usd_per_day=1.0)  # fmt: skip
    models = {"a": {"baseline": down, "fallback": good}, "b": {"baseline": good, "candidate": down}}
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump({"models": models}))
    with (
        serving(tmp_path / "gateway.yaml", OneEngine(upstream.url)) as (url, gateway),
        httpx2.Client(base_url=url) as c,
    ):
        for model in ("a", "a", "b", *(f"guess-{number}" for number in range(50))):
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": model == "b"}
            c.post("/v1/chat/completions", json=body, headers={"x-tuneline-task": f"task {model}"})
        gateway.rollouts.look()
        return c.get("/metrics").text


async def read_engine(session: Any, address: str) -> str:
    return ENGINE


def test_requests_are_counted_by_names_of_ours_alone(text: str) -> None:
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    model_a = ("model", "a"), ("outcome", "ok"), ("side", "fallback"), ("task", "other")
    assert samples["tuneline_requests_total", *model_a] == 2
    assert samples["tuneline_upstream_failures_total", ("kind", "status"), ("target", "url:down")] >= 2
    assert samples["tuneline_tokens_total", ("kind", "completion"), ("target", "url:good")] == 180
    assert samples["tuneline_cost_usd_total", ("target", "url:good")] == pytest.approx(180 * 10 / 1e6)
    assert samples["tuneline_budget_left_usd", ("target", "url:good")] == pytest.approx(1 - 180 * 10 / 1e6)
    assert samples["tuneline_candidate_share", ("model", "b"), ("task", "other")] == 0
    assert samples[GAUGE, ("engine", "router")] == 0.25
    assert "guess" not in text and "task a" not in text and len(text) < 40_000


def test_the_dashboard_asks_for_metrics_that_there_are(text: str) -> None:
    dashboard = json.loads((ROOT / "configs/grafana.json").read_text())
    asked = {
        re.sub(r"_bucket$", "", name)
        for panel in dashboard["panels"]
        for query in panel["targets"]
        for name in re.findall(r"tuneline_[a-z_]+", query["expr"])
    }
    names = {re.sub(r"_bucket$", "", sample.name) for f in text_string_to_metric_families(text) for sample in f.samples}
    names |= {family.name for family in text_string_to_metric_families(text)}
    assert len(asked) > 12 and asked <= names
