"""Traffic moves on proof: sticky sides, bounds that hold at every look, records, and rollouts through a gateway."""

import asyncio
import json
import random
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as some

from benchmarks import traffic as simulation
from tests.unit.misbehaving import Connection, MisbehavingUpstream, running, serving, target
from tests.unit.test_gateway_app import run, wait_for
from tuneline.configs.gateway import STEPS, Policy, Route, Target, read_gateway
from tuneline.core.errors import GateFailed, NotFound
from tuneline.endpoints.traffic import records, rollouts
from tuneline.endpoints.traffic.assignment import SHARES, assign, bucket
from tuneline.endpoints.traffic.confidence import Sums, radius, requests_to_resolve
from tuneline.endpoints.traffic.evidence import StepEvidence
from tuneline.endpoints.traffic.verdict import judge

POLICY = Policy(outcomes=("answered",))


def test_a_growing_share_only_adds_units() -> None:
    route = Route(baseline=Target(promoted="old"), candidate=Target(promoted="new"))
    units = [f"user {number}" for number in range(4000)]
    before: set[str] = set()
    for step in STEPS:
        current = records.CurrentStep(step, 1, records.BEGINNING, False, "router/other")
        there = {unit for unit in units if assign(route, current, unit).arm == "candidate"}
        assert before <= there and abs(len(there) / 4000 - SHARES[step] / 10_000) < 0.025
        before = there
    digest = blake2b(b"user 7", key=b"router/other", digest_size=8).digest()
    assert bucket("router/other", "user 7") == int.from_bytes(digest, "big") % 10_000


@given(some.lists(some.tuples(some.integers(0, 5), some.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=60))
def test_running_sums_are_those_of_all_units(requests: list[tuple[int, float]]) -> None:
    sums, units = Sums(), dict[int, list[float]]()
    for unit, outcome in requests:
        mine = units.setdefault(unit, [])
        sums.add(sum(mine), len(mine), outcome)
        mine.append(outcome)
    totals, counts = [sum(u) for u in units.values()], [len(u) for u in units.values()]
    mean = sum(totals) / sum(counts)
    residuals = sum((s - mean * n) ** 2 for s, n in zip(totals, counts, strict=True)) / sum(counts) ** 2
    assert sums.units == len(units) and sums.mean == pytest.approx(mean)
    assert sums.variance() >= residuals - 1e-12


def test_feedback_that_changes_is_as_if_it_had_been_so() -> None:
    policy = Policy(outcomes=("feedback",))
    changed, fresh = StepEvidence(policy), StepEvidence(policy)
    for evidence, ratings in ((changed, ([1, 0, 1], [0, 1, 1])), (fresh, ([0, 1, 1],))):
        for number in range(3):
            evidence.add({"kind": "request", "id": f"r{number}", "unit": "u", "served": "baseline"})
        for rating in ratings:
            for number, value in enumerate(rating):
                evidence.add({"kind": "feedback", "id": f"r{number}", "value": float(value)})
    assert changed.comparisons() == fresh.comparisons() and changed.comparisons()["feedback"].requests == 3


def test_a_boundary_is_crossed_by_chance_as_rarely_as_it_says() -> None:
    """Brownian motion at 4,000 looks: 2,000 paths, of which a fixed 95 % bound would lose more than half."""
    rng = np.random.default_rng(1)
    information = np.linspace(1, 40_000, 4000)
    steps = rng.normal(size=(2000, 4000)) * np.sqrt(np.diff(information, prepend=0))
    path = np.cumsum(steps, axis=1)
    bound = radius(1 / information, 0.05, 0.03) * information
    ever = (path > bound).any(axis=1).mean()
    assert 0.01 < ever <= 0.05 and (path > 1.645 * np.sqrt(information)).any(axis=1).mean() > 0.5


def test_a_plan_is_what_resolves_the_margin() -> None:
    needed = requests_to_resolve(0.03, 0.36, 0.05, 0.03)
    assert radius(0.36 / needed, 0.05, 0.03) <= 0.03 < radius(0.36 / (0.97 * needed), 0.05, 0.03)


def test_simulated_rollouts_hold_their_error_rates() -> None:
    """A small one of `benchmarks/traffic.py`: 150 rollouts each, wide margins, so that it takes seconds."""
    policy = Policy(outcomes=("answered",), margin=0.08, first_margin=0.15)
    effects = np.repeat([-0.3, -0.08, 0.0], 150)
    ends = simulation.simulate(policy, effects, 6000, seed=3)
    much_worse, worse, equal = (ends.step[n * 150 : (n + 1) * 150] for n in range(3))
    assert (much_worse == simulation.BACK).mean() > 0.98 and (worse == simulation.DONE).mean() <= 0.08
    assert (equal == simulation.BACK).mean() <= 0.08 and (equal == simulation.DONE).mean() > 0.7


def test_bounds_send_back_and_nothing_seen_moves_nothing() -> None:
    nothing = judge(POLICY, "5", {}, {})
    assert nothing.action == "wait" and nothing.missing_requests > 100 and "no data yet" in nothing.reasons[0]
    for outcomes in (("valid",), ("feedback",), ("valid", "feedback")):
        assert judge(Policy(outcomes=outcomes), "shadow", {}, {}).action == "wait"
    late, policy = StepEvidence(Policy(latency_p95_s=1.0)), Policy(latency_p95_s=1.0)
    for number in range(400):
        late.add({"kind": "request", "id": str(number), "unit": str(number), "assigned": "candidate", "step": "5",
                  "served": "candidate", "latency_s": 2.0 if number % 4 == 0 else 0.1})  # fmt: skip
    verdict = judge(policy, "5", late.comparisons(), late.late())
    assert verdict.action == "back" and "latency" in verdict.reasons[0]


def test_a_candidate_that_costs_more_than_its_bound_comes_back_and_waits_before() -> None:
    policy = Policy(usd_per_request=0.002, outcomes=("answered",))
    for usd, few, many in ((0.003, "wait", "back"), (0.001, "wait", "advance")):
        evidence = StepEvidence(policy)
        for number in range(4000):
            for side in ("candidate", "baseline"):
                evidence.add({"kind": "request", "id": f"{side}{number}", "unit": f"{side}{number}", "assigned": side,
                              "step": "50", "served": side, "usd": usd})  # fmt: skip
            if number in (40, 3999):
                verdict = judge(policy, "50", evidence.comparisons(), evidence.late())
                assert verdict.action == (few if number == 40 else many), verdict
        assert usd < 0.002 or verdict.reasons[0].startswith("cost: 0.003 USD a request of 4000")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    return tmp_path


def test_a_shadow_needs_no_ratings_and_a_share_does() -> None:
    policy = Policy(outcomes=("answered", "feedback"))
    for step, action in (("shadow", "advance"), ("5", "wait")):
        evidence = StepEvidence(policy)
        for number in range(400):
            unit = {"kind": "request", "unit": str(number), "step": step}
            evidence.add(unit | {"id": f"b{number}", "assigned": "baseline", "served": "baseline"})
            evidence.add({"kind": "feedback", "id": f"b{number}", "value": 1.0})  # a candidate's answer has none
            other = {"shadow_of": f"b{number}"} if step == "shadow" else {"assigned": "candidate"}
            evidence.add(unit | {"id": f"c{number}", "served": "candidate", "unit": f"c{number}"} | other)
        verdict = judge(policy, step, evidence.comparisons(), evidence.late())  # type: ignore[arg-type]
        assert verdict.action == action, verdict
        assert step == "shadow" or verdict.reasons[0].startswith("feedback: no data")


def test_a_record_that_breaks_leaves_traffic_where_it_was(folder: Path) -> None:
    reader = records.RecordReader()
    assert (reader.step("router").step, reader.step("router").number) == ("shadow", 0)
    records.move("router", "other", "25", by="maria")
    assert reader.step("router").step == "25"
    file = folder / "policy/traffic/router.json"
    good = file.read_text()
    for broken in ("", good[:40], '{"model": 7}'):
        file.write_text(broken)
        assert reader.step("router").step == "25"
    file.unlink()
    assert reader.step("router").step == "25"
    file.write_text(good)
    assert records.move("router", "other", "50", by="x", expected=7) is None  # somebody was faster
    records.move("router", "other", "50", by="evidence", expected=1)
    assert reader.step("router").step == "50"
    assert [move.by for move in records.read_record("router").tasks["other"]] == ["maria", "evidence"]  # type: ignore[union-attr]


BASELINE, GOOD, BAD = 0.9, 0.92, 0.3
RNG = random.Random(5)


@pytest.fixture
def upstream() -> Iterator[MisbehavingUpstream]:
    with running(MisbehavingUpstream({})) as server:
        yield server


def write(folder: Path, upstream: MisbehavingUpstream, **policy: Any) -> Path:
    settings = {
        "margin": 0.25,
        "first_margin": 0.4,
        "least_units": 20,
        "verdict": False,
        "outcomes": ["feedback"],
    } | policy
    models = {
        name: {
            "baseline": target(upstream, "old", response_s=5),
            "candidate": target(upstream, name, response_s=2),
            "policy": settings,
        }
        for name in ("good", "bad")
    }
    (folder / "gateway.yaml").write_text(yaml.safe_dump({"models": models, "tasks": ["pricing"]}))
    return folder / "gateway.yaml"


async def stream_requests(url: str, model: str, users: range, at_once: int = 8) -> None:
    """Ask, and rate each answer by who gave it."""
    quality = {"old": BASELINE, "good": GOOD, "bad": BAD}
    async with aiohttp.ClientSession() as session:

        async def ask(numbers: range) -> None:
            for number in numbers:
                body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "user": f"user {number}"}
                async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                    answer = await response.json()
                    assert "model" in answer, answer
                    rating = {
                        "id": response.headers["x-request-id"],
                        "value": float(RNG.random() < quality[answer["model"]]),
                    }
                async with session.post(f"{url}/v1/feedback", json=rating) as response:
                    assert response.status == 200

        await asyncio.gather(*(ask(users[first::at_once]) for first in range(at_once)))


def steps_of(model: str, task: str = "other") -> list[str]:
    record = records.read_record(model)
    return [move.step for move in record.tasks.get(task, ())] if record else []


def test_a_good_candidate_gets_everything_and_a_bad_one_comes_back(folder: Path, upstream: MisbehavingUpstream) -> None:
    """By ratings, through a running gateway; nobody rates shadows, so a person begins."""
    file = write(folder, upstream)
    read = read_gateway(file)
    with serving(file, decide_every_s=0.1) as (url, _):
        for model in ("good", "bad"):
            with pytest.raises(GateFailed, match="no data yet"):
                rollouts.advance(rollouts.Rollouts(lambda: read, folder / "logs"), model, "other", "maria")
            rollouts.advance(rollouts.Rollouts(lambda: read, folder / "logs"), model, "other", "maria", "rated by hand")
        asyncio.run(stream_requests(url, "bad", range(700)))
        wait_for(lambda: steps_of("bad") == ["5", "baseline"])
        for first in range(0, 3000, 200):
            asyncio.run(stream_requests(url, "good", range(first, first + 200)))
            if steps_of("good")[-1] == "100":
                break
        wait_for(lambda: steps_of("good") == ["5", "25", "50", "100"])
        last = records.read_record("good").tasks["other"][-1]  # type: ignore[union-attr]
        assert last.by == "evidence" and last.evidence["feedback"]["lower"] > -0.25
        held = records.read_record("bad").tasks["other"][-1]  # type: ignore[union-attr]
        assert held.held and "feedback" in held.why
        asyncio.run(stream_requests(url, "bad", range(20)))
    shown = run("traffic", "ls", "--settings", str(file))
    assert "100 %" in shown and "baseline, held" in shown
    assert "req_" in run("logs", "tail", "-n", "3")


def test_a_shadow_never_reaches_the_caller_and_is_compared_in_pairs(
    folder: Path, upstream: MisbehavingUpstream
) -> None:
    async def never(c: Connection) -> None:
        await asyncio.sleep(20)

    upstream.faults |= {"bad": never}
    file = write(folder, upstream, outcomes=["answered"], shadow_concurrency=400)
    with serving(file, decide_every_s=0.1) as (url, gateway):
        asyncio.run(stream_requests(url, "good", range(60)))
        wait_for(lambda: steps_of("good") == ["5"])
        asked = upstream.of("good")[0].body
        assert asked["messages"] == upstream.of("old")[0].body["messages"]
        asyncio.run(stream_requests(url, "bad", range(60)))  # `stream_requests` demands answers of the baseline
        wait_for(lambda: steps_of("bad") == ["baseline"])
        assert not gateway.shadows.left_out
    lines = [json.loads(line) for file in folder.glob("logs/requests/*") for line in file.read_text().splitlines()]
    own = [line for line in lines if line.get("step") == "shadow" and not line.get("shadow_of")]
    assert len(own) >= 40 and all(line["served"] == "baseline" and line["latency_s"] < 3 for line in own)


def test_a_task_is_moved_alone(folder: Path, upstream: MisbehavingUpstream) -> None:
    file = write(folder, upstream)
    with serving(file) as (url, _):
        records.move("good", "pricing", "100", by="maria")
        body = {"model": "good", "messages": [{"role": "user", "content": "hi"}]}

        async def answered_by(**more: Any) -> str:
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    f"{url}/v1/chat/completions", json=body | more.get("body", {}), headers=more.get("headers", {})
                ) as response,
            ):
                return str((await response.json())["model"])

        assert asyncio.run(answered_by(headers={"x-tuneline-task": "pricing"})) == "good"
        assert asyncio.run(answered_by(body={"metadata": {"task": "pricing"}})) == "good"
        assert asyncio.run(answered_by(headers={"x-tuneline-task": "unheard of"})) == "old"
    read = read_gateway(file)
    opened = rollouts.Rollouts(lambda: read, folder / "logs")
    with pytest.raises(NotFound, match="--task pricing"):
        rollouts.hold(opened, "good", "nothing", "maria")
    assert rollouts.back(opened, "good", "pricing", "maria", "complaints").step == "baseline"


def test_rows_for_training_come_from_the_log_without_secrets(folder: Path, upstream: MisbehavingUpstream) -> None:
    file = write(folder, upstream)
    settings = yaml.safe_load(file.read_text()) | {"log": {"prompts": 1.0}}
    file.write_text(yaml.safe_dump(settings))
    with serving(file) as (url, _):
        ids = []

        async def ask() -> None:
            async with aiohttp.ClientSession() as session:
                for text in ("call me at +49 170 1234567 or anna.meier@gmx.de", "what is 2 + 2?", "and 3 + 3?"):
                    body = {"model": "good", "messages": [{"role": "user", "content": text}]}
                    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                        ids.append(response.headers["x-request-id"])

        asyncio.run(ask())
    run("logs", "feedback", ids[0], "--rating", "good")
    run("logs", "feedback", ids[1], "--rating", "bad", "--correction", "4")
    run("logs", "feedback", "req_none", "--rating", "good", code=2)
    run("logs", "export", "--to", str(folder / "rows.jsonl"), "--rating", "good", "--corrected")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == [f"log/{ids[0]}", f"log/{ids[1]}"]
    assert "gmx.de" not in json.dumps(rows) and rows[1]["messages"][-1] == {"role": "assistant", "content": "4"}
    suite = {"name": "sums", "items": [{"ask": "WHAT is 2 + 2", "says": ["4"]}]}
    recipe = {"base": "tiny", "data": {"sources": [{"path": "rows.jsonl"}]}, "evaluate": {"suites": [suite]}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    to = ("--to", str(folder / "others.jsonl"), "--recipe", str(folder / "recipe.yaml"))
    assert "1 that occur in a suite" in run("logs", "export", *to, "--rating", "good", "--corrected")
    others = [json.loads(line) for line in (folder / "others.jsonl").read_text().splitlines()]
    assert [row["source"] for row in others] == [f"log/{ids[0]}"]
    assert "anna" not in "".join(file.read_text() for file in folder.glob("logs/requests/*"))
    run("validate", str(folder / "rows.jsonl"), "--to", str(folder / "validation"))
