"""Intervals, tests and verdicts: held against scipy, and against what a sceptic would try."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from tuneline.stages.evaluate.statistics import (
    clopper_pearson,
    cluster_bootstrap,
    compare,
    design_effect,
    holm,
    interval,
    items_for_bound,
    items_needed,
    lower_bound,
    sign_flip_p,
    wilson,
)
from tuneline.stages.evaluate.verdicts.task_verdicts import VERDICTS, PairedOutcomes, compare_tasks, read_verdicts


def own(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def frames(n: int, size: int) -> list[str]:
    return [str(i // size) for i in range(n)]


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 17), (511, 512), (512, 512)])
def test_bounds_are_scipys(right: int, n: int) -> None:
    both = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right, n, 0.95) == pytest.approx((both.low, both.high), abs=1e-9)
    low = binomtest(right, n, alternative="greater").proportion_ci(0.95, method="exact").low
    assert clopper_pearson(right, n, 0.95) == pytest.approx(low, abs=1e-9)


def test_99_percent_needs_500_items_and_one_error() -> None:
    assert lower_bound([True] * 499 + [False], own(500), 0.95) == pytest.approx(0.9905, abs=1e-4)
    assert lower_bound([True] * 990 + [False] * 10, own(1000), 0.95) == pytest.approx(0.983, abs=1e-3)
    assert items_for_bound(0.99, 1.0, 0.95) == 299
    assert items_for_bound(0.99, 0.99, 0.95) is None
    needed = items_for_bound(0.93, 0.96, 0.95) or 0
    assert clopper_pearson(0.96 * needed, needed, 0.95) >= 0.93 > clopper_pearson(0.96 * (needed - 1), needed - 1, 0.95)


def test_items_that_fall_together_say_less() -> None:
    outcomes = [(i // 5) % 10 != 0 for i in range(500)]
    assert design_effect(outcomes, own(500)) == 1
    assert design_effect(outcomes, frames(500, 5)) == pytest.approx(5, rel=0.02)
    alone, together = interval(outcomes, own(500), 0.95), interval(outcomes, frames(500, 5), 0.95)
    assert together[0] < alone[0] < alone[1] < together[1]
    assert lower_bound(outcomes, frames(500, 5), 0.95) < lower_bound(outcomes, own(500), 0.95)
    assert together == pytest.approx(wilson(90, 100, 0.95), abs=0.002)
    drawn = cluster_bootstrap(outcomes, frames(500, 5), 0.95)
    assert drawn == pytest.approx(together, abs=0.02)


def test_hardly_any_wrong_a_frame_proves_as_much_as_one_item() -> None:
    assert lower_bound([True] * 500, frames(500, 5), 0.95) == pytest.approx(clopper_pearson(100, 100, 0.95))
    scattered = [i % 23 != 0 for i in range(500)]  # enough wrong, in frames of their own
    assert lower_bound(scattered, frames(500, 5), 0.95) == lower_bound(scattered, own(500), 0.95)


def test_single_items_are_flipped_as_mcnemar_does() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        changes = rng.choice([-1, 0, 0, 0, 1], 60).tolist()
        up, down = changes.count(1), changes.count(-1)
        assert sign_flip_p(changes, own(60)) == pytest.approx(binomtest(up, up + down).pvalue)


def test_clusters_are_flipped_whole_as_scipy_flips_them() -> None:
    rng = np.random.default_rng(2)
    for _ in range(5):
        changes = rng.choice([-1, 0, 1, 1], 40)
        sums = changes.reshape(10, 4).sum(axis=1)

        def total(a: Sequence[int], b: Sequence[int], axis: int) -> object:
            return np.sum(a, axis=axis) - np.sum(b, axis=axis)

        expected = permutation_test(
            (sums, np.zeros(10)), total, permutation_type="samples", vectorized=True, n_resamples=np.inf
        )
        assert sign_flip_p(changes.tolist(), frames(40, 4)) == pytest.approx(expected.pvalue)


def test_holm_as_in_the_books() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_items_needed_find_what_they_promise() -> None:
    n = items_needed(0.03, 0.04 * 0.99 + 0.01 * 0.96, 0.95)
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(400):
        a, b = rng.random(n) > 0.04, rng.random(n) > 0.01
        found += compare(a.tolist(), b.tolist(), own(n), 0.95).p <= 0.05
    assert 0.72 <= found / 400 <= 0.88
    assert items_needed(0.03, 0.0492, 1 - 0.05 / 6) > n


def pair(right_a: int, right_b: int, n: int) -> PairedOutcomes:
    return PairedOutcomes([i < right_a for i in range(n)], [i < right_b for i in range(n)], own(n))


def test_four_verdicts_with_their_numbers() -> None:
    tasks = {
        "up": pair(450, 480, 500),
        "down": pair(480, 450, 500),
        "same": pair(490, 489, 1000),
        "few": pair(10, 10, 10),
    }
    found = compare_tasks("a", "b", tasks, 0.95)
    assert {t.task: t.verdict for t in found.tasks} == {
        "up": "better", "down": "worse", "same": "not shown", "few": "too few"
    }  # fmt: skip
    up, _, same, few = found.tasks
    assert (up.gained, up.lost, up.difference) == (30, 0, 0.06) and up.low < 0.06 < up.high
    assert up.p_corrected > up.p and same.low < 0 < same.high
    assert few.more_needed > 100 and few.summary == f"too few items: {few.more_needed} more needed"
    assert len({t.p_corrected for t in found.tasks}) > 1


def test_what_is_shown_alone_may_not_be_among_six() -> None:
    edge = pair(282, 288, 300)
    assert compare_tasks("a", "b", {"one": edge}, 0.95).tasks[0].verdict == "better"
    six = compare_tasks("a", "b", {"one": edge} | {f"same{i}": pair(290, 290, 300) for i in range(5)}, 0.95)
    assert six.tasks[0].verdict == "too few"


def test_a_difference_that_seems_large_needs_few_items_but_not_few_frames() -> None:
    seems = compare_tasks("a", "b", {"one": pair(10, 14, 20)}, 0.95).tasks[0]
    assert seems.verdict == "too few" and 5 < seems.more_needed < 60
    same = PairedOutcomes([False] * 20, [True] * 20, frames(20, 4))
    six = compare_tasks("a", "b", {str(i): same for i in range(6)}, 0.95).tasks[0]
    assert (six.verdict, six.clusters, six.more_needed) == ("too few", 5, 12)  # eight frames of four


def test_one_frame_that_changes_sides_is_one_change() -> None:
    a, b = [False] * 20 + [True] * 480, [True] * 500
    assert compare(a, b, own(500), 0.95).p < 0.001
    assert compare(a, b, frames(500, 20), 0.95).p == 1


def test_verdicts_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = compare_tasks("base", "tuned-Q4_K_M", {"one": pair(400, 450, 500)}, 0.95)
    (tmp_path / VERDICTS).write_text(found.model_dump_json(indent=1))
    assert read_verdicts(tmp_path / VERDICTS) == found
