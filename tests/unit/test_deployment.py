"""What a deployment costs, how many gateways there may be, and moves of traffic by the policy's one writer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from tuneline.configs.cloud import PAGE, Cloud
from tuneline.configs.gateway import Gateway
from tuneline.core.errors import BadRecipe, BadRequest
from tuneline.endpoints import policy
from tuneline.endpoints.traffic import records
from tuneline.endpoints.traffic.records import Move
from tuneline.endpoints.traffic.rollouts import Rollout
from tuneline.ui.traffic_history import TrafficHistory
from tuneline.volumes.call_outcomes import Outcome, failed, succeeded
from tuneline.volumes.gateway_container import move_by
from tuneline.volumes.remote import describe_deployment

ROUTE = {"baseline": {"promoted": "old"}, "candidate": {"promoted": "new"}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    monkeypatch.setenv("TUNELINE_LOGS", str(tmp_path / "logs"))
    return tmp_path


def call(verb: str, words: list[str]) -> Outcome:
    """As `policy_cpu` of app.py answers."""
    try:
        return succeeded(policy.VERBS[verb](*words))
    except BadRequest as error:
        return failed(error)


def test_what_a_deployment_costs_is_said_before() -> None:
    idle = describe_deployment(Cloud())
    assert len(idle) == 3 and "proxy token" in idle[2] and all("0.00 USD per day without" in line for line in idle[:2])
    gateway = {"min_containers": 1, "secrets": ["tuneline-proxy"]}
    kept = Cloud.model_validate({"gateway": gateway, "endpoint": {"max_containers": 3}})
    a_day = [24 * containers.usd_per_hour for containers in (kept.gateway, kept.endpoint)]
    lines = describe_deployment(kept)
    assert f"{a_day[0]:.2f} USD per day without requests, {a_day[0]:.2f} at most" in lines[0]
    assert f"{3 * a_day[1]:.2f} at most if none takes more than its 2 cores and 4 GiB" in lines[1] and len(lines) == 2
    with_page = describe_deployment(Cloud.model_validate({"ui": True}))[2]
    assert with_page.startswith("page: ") and with_page.endswith(f"{24 * PAGE.usd_per_hour:.2f} at most")


def test_gateways_that_count_for_themselves_are_one() -> None:
    several = Cloud.model_validate({"gateway": {"max_containers": 2}}).gateway
    with pytest.raises(BadRecipe, match=r"limits\.storage"):
        several.check_storage("memory")
    several.check_storage("redis://limits")
    Cloud().gateway.check_storage("memory")


def test_the_gateways_moves_are_written_by_the_one_writer(folder: Path) -> None:
    move = move_by(SimpleNamespace(remote=call))
    made = move("router", "other", "5", by="evidence", why="no worse", evidence={"answered": 1}, expected=0)
    assert made and records.read_record("router").tasks["other"] == (made,)  # type: ignore[union-attr]
    assert move("router", "other", "25", by="evidence", expected=0) is None  # somebody was faster
    with pytest.raises(BadRequest, match="letters"):
        move("../router", "other", "5", by="evidence")


def test_traffic_is_seen_and_moved_by_the_policys_verbs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Gateway.model_validate({"models": {"router": ROUTE}})
    monkeypatch.setattr(policy, "read_gateway", lambda: settings)

    def rollout() -> Rollout:
        text: Any = policy.VERBS["traffic ls"]()
        (only,) = TypeAdapter(list[Rollout]).validate_json(text)
        return only

    assert (rollout().step.step, rollout().verdict.action) == ("shadow", "wait")
    assert Move.model_validate_json(policy.VERBS["traffic advance"]("router", "other", "maria", "a reason")).step == "5"
    assert Move.model_validate_json(policy.VERBS["traffic hold"]("router", "other", "maria", "")).held
    assert rollout().step.held and rollout().step.number == 2
    assert (
        Move.model_validate_json(policy.VERBS["traffic back"]("router", "other", "maria", "", "yes")).step == "shadow"
    )


def test_the_deployed_pages_buttons_move_traffic_through_the_one_writer(folder: Path) -> None:
    """The page's folders are copies: what it wrote there itself would be lost."""
    calls = []

    def remote(verb: str, words: list[str]) -> Outcome:
        calls.append((verb, words[:3]))
        return call(verb, words)

    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump({"models": {"router": ROUTE}}), encoding="utf-8")
    traffic = TrafficHistory(file, "bo", move_by(SimpleNamespace(remote=remote)))
    assert traffic.hold("router", "other").held
    made = traffic.back("router", "other")
    assert calls == [("traffic move", ["router", "other", "shadow"]), ("traffic move", ["router", "other", "baseline"])]
    assert (made.by, made.step, made.held) == ("bo", "baseline", True)
