"""What a key may, as the command writes it: nothing that a later command could not read."""

import json
from pathlib import Path

import pytest

from tuneline.core.errors import BadRequest
from tuneline.endpoints import keys


@pytest.fixture(autouse=True)
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_POLICY", str(tmp_path / "policy"))
    return tmp_path / "policy"


@pytest.mark.parametrize(
    "settings",
    ['{"usd_per_day": 1e400}', '{"usd_per_month": 1e300}', '{"requests_per_minute": %s}' % ("9" * 40), "{", "[]", "7"],
)  # fmt: skip
def test_settings_that_are_none_are_refused_and_nothing_is_written(policy: Path, settings: str) -> None:
    """`Infinity` in the file would be no JSON: no key could be revoked any more."""
    keys.add_key("maria")
    before = (policy / "keys.json").read_bytes()
    for change in (lambda: keys.add_key("otto", settings), lambda: keys.change_key("maria", settings)):
        with pytest.raises(BadRequest):
            change()
    assert (policy / "keys.json").read_bytes() == before
    keys.revoke_key("maria")


@pytest.mark.parametrize("hours", ["9" * 12, "9" * 5000, "8785", "-1", "1.5", "²"])
def test_hours_that_are_no_time_are_refused(policy: Path, hours: str) -> None:
    keys.add_key("maria")
    before = (policy / "keys.json").read_bytes()
    with pytest.raises(BadRequest, match="--hours"):
        keys.rotate_key("maria", hours)
    assert (policy / "keys.json").read_bytes() == before


def test_a_limit_ends_by_null(policy: Path) -> None:
    keys.add_key("maria", '{"usd_per_day": 5}')
    assert json.loads(keys.change_key("maria", '{"usd_per_day": null, "tokens_per_minute": 9}')) == {
        "tokens_per_minute": 9
    }
