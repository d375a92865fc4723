"""What is promoted, and whose keys count: records that a sceptic can follow, and nothing that opens by accident."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import runs
from tests.policy import find_owner
from tests.runs import PASSED
from tuneline.core.errors import BadRequest, GateFailed, NotFound
from tuneline.endpoints import keys, promotion


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    return tmp_path


FAILED = {"outcome": "fail", "passed": False, "demands": 1, "reasons": ["unseen: 3 %"], "unmet": ["unseen: 3 %"]}
IDLE = {"outcome": "pass", "passed": True, "demands": 0, "reasons": ["nothing was demanded"], "unmet": []}


def make_run(home: Path, name: str, gate: dict[str, Any] = PASSED) -> Path:
    return runs.make_run(home / "runs" / name, gate=gate)


def test_the_last_promotion_serves_and_a_rollback_goes_back_one_run(home: Path) -> None:
    for run in ("a", "b", "c"):
        make_run(home, run)
        promotion.promote(run, "router")
    assert promotion.read_promotion("router").current.run == "c"
    assert promotion.rollback("router").run == "b"
    assert promotion.rollback("router").run == "a"
    with pytest.raises(NotFound, match="is the first"):
        promotion.rollback("router")
    record = promotion.read_promotion("router")
    assert [v.run for v in record.versions] == ["a", "b", "c", "b", "a"]
    assert [v.number for v in record.versions] == [1, 2, 3, 4, 5]
    assert promotion.read_promotions() == {"router": record}


def test_a_promotion_after_a_rollback_goes_back_to_what_served_before_it(home: Path) -> None:
    for run in ("a", "b", "c"):
        make_run(home, run)
    promotion.promote("a", "router")
    promotion.promote("b", "router")
    promotion.rollback("router")
    promotion.promote("c", "router")
    assert promotion.rollback("router").run == "a"


def test_only_what_was_evaluated_is_promoted(home: Path) -> None:
    runs.remove(make_run(home, "raw"), "evaluate")
    with pytest.raises(NotFound, match="is not evaluated"):
        promotion.promote("raw", "router")
    make_run(home, "good")
    for name in ("../up", "", "a/b"):
        with pytest.raises(BadRequest):
            promotion.promote("good", name)
    assert not (home / "policy").exists()
    with pytest.raises(NotFound, match="promote RUN --as other"):
        promotion.read_promotion("other")


@pytest.mark.parametrize(("gate", "told"), [(FAILED, "unseen: 3 %"), (IDLE, "no demands"), ({}, "no demands")])
def test_without_a_pass_a_reason_is_demanded_and_kept(home: Path, gate: dict[str, Any], told: str) -> None:
    make_run(home, "weak", gate=gate)
    with pytest.raises(GateFailed, match=told) as refused:
        promotion.promote("weak", "router")
    assert refused.value.exit_code == 3 and "--override" in str(refused.value)
    assert not (home / "policy").exists()
    promotion.promote("weak", "router", "the old one is down", "maria")
    kept = promotion.read_promotion("router").current
    assert (kept.override, kept.by, kept.gate) == (
        "the old one is down",
        "maria",
        "no demands" if gate is IDLE else gate.get("outcome", "none"),
    )
    make_run(home, "good")
    promotion.promote("good", "router", by="ketut")
    back = promotion.rollback("router", by="wayan")
    assert (back.run, back.by, back.override) == ("weak", "wayan", "the old one is down")
    assert promotion.read_promotion("router").versions[1].reasons == ("unseen: 99 %",)


def test_a_record_of_before_is_read(home: Path) -> None:
    make_run(home, "a")
    promotion.promote("a", "router")
    file = home / "policy/models/router.json"
    record = json.loads(file.read_text())
    for new in ("by", "gate", "reasons", "override"):
        del record["versions"][0][new]
    file.write_text(json.dumps(record))
    assert promotion.read_promotion("router").current.run == "a"


def test_a_key_opens_until_it_is_revoked_and_is_kept_nowhere(home: Path) -> None:
    key = keys.add_key("maria")
    assert find_owner(key) == "maria" and find_owner(key + "x") is None and find_owner("") is None
    assert key not in (home / "policy/keys.json").read_text()
    assert list(keys.list_owners()) == ["maria"]
    with pytest.raises(BadRequest, match="keys rotate maria"):
        keys.add_key("maria")
    keys.revoke_key("maria")
    assert find_owner(key) is None and json.loads((home / "policy/keys.json").read_text()) == {}
    with pytest.raises(NotFound, match="owners with a key: none"):
        keys.revoke_key("maria")


def test_what_is_refused_leaves_no_policy_behind(home: Path) -> None:
    for change in (lambda: keys.revoke_key("maria"), lambda: promotion.rollback("router")):
        with pytest.raises(NotFound):
            change()
    assert not (home / "policy").exists()
