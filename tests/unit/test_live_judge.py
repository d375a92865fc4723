"""A judge of live answers: evidence where people agree with it, and nothing where that was not measured."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.scripted_model import ScriptedModel, last_text, serve_script
from tests.unit.misbehaving import serving
from tuneline.configs.gateway import Policy, read_gateway
from tuneline.core.errors import BadRecipe
from tuneline.endpoints.gateway.judging import find_problem
from tuneline.endpoints.traffic import records
from tuneline.endpoints.traffic.evidence import StepEvidence
from tuneline.stages.evaluate.scoring.llm_judge import JudgeResult

POLICY = {"margin": 0.2, "first_margin": 0.3, "least_units": 20, "verdict": False, "outcomes": ["judged"]}


def judge(request: Any) -> str:
    """Reason first, and find good what names a price."""
    return f"It was asked.\n{'GOOD' if '7 euro' in last_text(request) else 'BAD'}"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ScriptedModel]]:
    for name in ("LOGS", "POLICY", "RUNS"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / name.lower()))
    scripts: dict[str, Callable[[Any], str]] = {
        "good": lambda request: "It costs 7 euro.",
        "bad": lambda request: "No idea.",
        "judge": judge,
    }
    with ExitStack() as stack:
        yield {name: stack.enter_context(serve_script(script)) for name, script in scripts.items()}


def write(folder: Path, models: dict[str, ScriptedModel], *, kappa: float = 0.8, labels: int = 40) -> Path:
    """Write the settings, and what `tuneline judge` measured of the judge."""
    targets = {name: {"url": model.url, "model": name} for name, model in models.items()}
    route = {"baseline": targets["good"], "candidate": targets["bad"], "policy": POLICY}
    settings = {"models": {"m": route}, "judge": targets["judge"] | {"run": "r1", "share": 1.0}}
    (folder / "gateway.yaml").write_text(yaml.safe_dump(settings))
    measured = JudgeResult(
        judge=f"{models['judge'].url}/judge", target="q4", evaluate="e", at=datetime.now(UTC), n=90, unreadable=0,
        share=0.9, low=0.8, high=0.95, bound=0.8, labels=labels, agreement=0.9, agreement_low=0.8, agreement_high=0.95,
        kappa=kappa,
    )  # fmt: skip
    (folder / "runs" / "r1").mkdir(parents=True, exist_ok=True)
    (folder / "runs" / "r1" / "judge.json").write_text(measured.model_dump_json())
    return folder / "gateway.yaml"


async def ask(url: str, users: range) -> None:
    async with aiohttp.ClientSession() as session:
        for number in users:
            text = "How much? I am ann.smith@gmail.com"
            body = {"model": "m", "messages": [{"role": "user", "content": text}], "user": f"user {number}"}
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                assert response.status == 200


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def judged_lines(folder: Path) -> list[dict[str, Any]]:
    lines = [line for file in (folder / "logs").rglob("*.jsonl") for line in file.read_text("utf-8").splitlines()]
    return [record for record in map(json.loads, lines) if record["kind"] == "judged"]


def test_a_candidate_that_the_judge_finds_worse_goes_back(tmp_path: Path, models: dict[str, ScriptedModel]) -> None:
    records.move("m", "other", "50", by="maria")
    with serving(write(tmp_path, models), decide_every_s=0.1) as (url, _):
        asyncio.run(ask(url, range(80)))
        wait_for(lambda: records.read_record("m").tasks["other"][-1].step == "baseline")  # type: ignore[union-attr]
    back = records.read_record("m").tasks["other"][-1]  # type: ignore[union-attr]
    assert back.held and back.by == "evidence" and back.why.startswith("judged: ")
    prompts = [last_text(request) for request in models["judge"].requests]
    assert "How much?" in prompts[0] and not any("ann.smith@gmail.com" in prompt for prompt in prompts)
    assert {line["value"] for line in judged_lines(tmp_path)} == {0.0, 1.0}


@pytest.mark.parametrize(("measured", "says"), [({"kappa": 0.3}, "its kappa"), ({"labels": 12}, "12 labels by people")])
def test_a_judge_that_was_not_measured_well_says_nothing(
    tmp_path: Path, models: dict[str, ScriptedModel], measured: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    records.move("m", "other", "50", by="maria")
    with serving(write(tmp_path, models, **measured), decide_every_s=60) as (url, gateway):
        asyncio.run(ask(url, range(12)))
        wait_for(lambda: says in caplog.text)
        [rollout] = gateway.rollouts.look()
    assert models["judge"].requests == [] and judged_lines(tmp_path) == []
    assert rollout.verdict.action == "wait" and rollout.verdict.reasons == ("judged: no data yet",)


def test_other_judges_and_missing_measures_do_not_count(tmp_path: Path, models: dict[str, ScriptedModel]) -> None:
    settings = read_gateway(write(tmp_path, models)).judge
    assert settings and find_problem(settings) == ""
    assert "not of" in find_problem(settings.model_copy(update={"model": "another"}))
    assert "cannot be read" in find_problem(settings.model_copy(update={"run": "r2"}))
    content = yaml.safe_load((tmp_path / "gateway.yaml").read_text("utf-8"))
    del content["judge"]
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(BadRecipe, match="judged: needs a `judge`"):
        read_gateway(tmp_path / "gateway.yaml")


def test_a_rating_and_a_judgement_of_one_answer_count_each() -> None:
    evidence = StepEvidence(Policy(outcomes=("feedback", "judged")))
    evidence.add({"kind": "request", "id": "r", "unit": "u", "served": "baseline"})
    for kind, value in (("feedback", 1.0), ("judged", 0.0), ("judged", 1.0)):
        evidence.add({"kind": kind, "id": "r", "value": value})
    compared = evidence.comparisons()
    assert [compared[name].requests for name in ("feedback", "judged")] == [1, 1]  # type: ignore[index]
    assert compared["judged"].baseline and compared["judged"].baseline.mean == 1.0


def test_in_shadow_both_answers_are_judged_and_a_worse_candidate_goes_back(
    tmp_path: Path, models: dict[str, ScriptedModel]
) -> None:
    records.move("m", "other", "shadow", by="maria")
    with serving(write(tmp_path, models), decide_every_s=0.1) as (url, _):
        asyncio.run(ask(url, range(60)))
        wait_for(lambda: records.read_record("m").tasks["other"][-1].step == "baseline")  # type: ignore[union-attr]
    back = records.read_record("m").tasks["other"][-1]  # type: ignore[union-attr]
    assert back.by == "evidence" and back.why.startswith("judged: -1.000")
    lines = judged_lines(tmp_path)
    candidates = [line for line in lines if line.get("shadow_of")]
    own = {line["id"]: line["value"] for line in lines if not line.get("shadow_of")}
    assert len(lines) == 2 * len(candidates) and {line["value"] for line in candidates} == {0.0}
    assert all(own[line["shadow_of"]] == 1.0 for line in candidates)
    assert not any("ann.smith@gmail.com" in last_text(request) for request in models["judge"].requests)


def test_in_shadow_an_equal_candidate_is_shown_to_be_no_worse_and_equal_answers_are_judged_once(
    tmp_path: Path, models: dict[str, ScriptedModel]
) -> None:
    records.move("m", "other", "shadow", by="maria")
    file = write(tmp_path, models)
    file.write_text(file.read_text("utf-8").replace(models["bad"].url, models["good"].url))
    with serving(file, decide_every_s=0.1) as (url, _):
        asyncio.run(ask(url, range(60)))
        wait_for(lambda: records.read_record("m").tasks["other"][-1].step == "5")  # type: ignore[union-attr]
    lines = judged_lines(tmp_path)
    assert len([line for line in lines if line.get("shadow_of")]) >= 20
    assert len([line for line in lines if not line.get("shadow_of")]) == len(models["judge"].requests)


def test_a_pair_is_counted_whole_and_once() -> None:
    evidence = StepEvidence(Policy(outcomes=("judged",)))
    for name in ("a", "b"):
        evidence.add({"kind": "request", "id": name, "unit": name, "served": "baseline", "step": "shadow"})
        evidence.add({"kind": "request", "id": f"{name}2", "unit": name, "shadow_of": name})
    evidence.add({"kind": "judged", "id": "a2", "value": 0.0, "shadow_of": "a"})  # its own answer was not judged
    for _ in range(2):
        evidence.add({"kind": "judged", "id": "b", "value": 1.0})
        evidence.add({"kind": "judged", "id": "b2", "value": 0.0, "shadow_of": "b"})
    judged = evidence.comparisons()["judged"]
    assert (judged.baseline, judged.candidate.requests, judged.difference) == (None, 1, -1.0)
