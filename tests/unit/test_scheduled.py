"""What the scheduled evaluation calls worse."""

from tuneline.endpoints.scheduled_evaluation import find_regressions


def test_what_fell_is_told_by_what_it_is_held_against() -> None:
    references = {"last": 0.90, "promoted": 0.81, "baseline": 0.85, "candidate": 0.99}
    found = find_regressions(_share(0.80), {name: _share(share) for name, share in references.items()})
    assert found == ["routing: 0.800, was 0.900 (last)", "routing: 0.800, was 0.850 (baseline)"]
    assert find_regressions(_share(0.80), {"last": None, "promoted": _share(0.80)}) == []


def _share(share: float) -> dict[str, dict[str, float]]:
    return {"routing": {"name_accuracy": share}}
