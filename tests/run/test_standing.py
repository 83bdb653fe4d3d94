"""What is said of a run that stands below what it had already."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from psp_ray.posterior.accuracy import Estimate
from psp_ray.run.standing import excess, fallen, moving, setback
from psp_ray.run.stopping import Measure, expected_gain, outlook
from tests.helpers import report_of


@pytest.mark.parametrize(
    ("zero_shot", "accuracies", "n", "told"),
    [
        (0.8, [], 1000, ""),
        (0.6, [0.7, 0.8, 0.85], 1000, ""),
        (0.889, [0.85, 0.86, 0.82], 3000, "test accuracy, 82.0 %, is below zero-shot's 88.9 %"),
        (0.3, [0.7, 0.8, 0.75], 3000, "test accuracy has just fallen from 80.0 % to 75.0 %"),
        (0.3, [0.7, 0.85, 0.8, 0.8], 3000, "test accuracy, 80.0 %, is below the 85.0 % of round 2"),
        (0.3, [0.7, 0.8, 0.75], 50, ""),  # a standard error of 50 images is 6 points
        (0.3, [0.7, 0.8, 0.795], 10**6, ""),  # half a point is nothing to speak of
    ],
)
def test_a_setback_is_told_where_it_is_more_than_chance(zero_shot, accuracies, n, told):
    assert fallen(zero_shot, accuracies, n, "test") == told
    state = SimpleNamespace(
        zero_shot=SimpleNamespace(accuracy=zero_shot, n=n),
        reports=[report_of(round=i, test_accuracy=value) for i, value in enumerate(accuracies, 1)],
    )
    assert setback(state, "test") == told


@pytest.mark.parametrize(("high", "told"), [(0.69, True), (0.71, False)])
def test_without_a_test_set_estimates_must_leave_no_doubt(high, told):
    before, now = (Estimate(value, low, top, 40, 40) for value, low, top in ((0.8, 0.7, 0.9), (0.6, 0.5, high)))
    reports = [report_of(round=1, pool_accuracy_estimate=now)]
    state = SimpleNamespace(zero_shot=None, zero_shot_estimate=before, reports=reports)
    assert ("is below zero-shot's, about 80.0 %" in setback(state, "test")) == told


def test_little_more_to_gain_is_enough_only_where_all_is_well():
    still = expected_gain([0.5, 0.01, 0.01, 0.01])
    assert outlook(still, 0.01, 10, Measure(500)).startswith("enough: ")
    told = outlook(still, 0.01, 10, Measure(500), "test accuracy has just fallen from 80.0 % to 75.0 %")
    assert told.startswith("more of the same will not help: 4 more rounds")
    assert "but test accuracy has just fallen" in told
    assert "enough" not in told
    open_ = expected_gain([0.5, 0.3, 0.3])
    assert outlook(open_, 0.3, 10, Measure(500), "whatever") == outlook(open_, 0.3, 10, Measure(500))


def test_nothing_is_enough_while_test_accuracy_moves():
    still = expected_gain([0.5, 0.01, 0.01, 0.01])
    assert outlook(still, 0.01, 10, Measure(500, "test", 100, 0.9, moving=True)).startswith("next round: ")
    assert outlook(still, 0.01, 10, Measure(500, "test", 100, 0.9)).startswith("enough: ")


@pytest.mark.parametrize(
    ("accuracies", "n", "told"),
    [
        ([0.5], 100, False),
        ([0.5, 0.8, 0.8, 0.8], 10_000, False),
        ([0.5, 0.8, 0.82, 0.82], 10_000, True),
        ([0.8, 0.82], 100, False),  # 0.7 sqrt(0.82 0.18 / 100) = 2.7 points
        ([0.8, 0.83, 0.83], 100, True),
        ([0.8, 0.77], 100, True),
        ([0.995, 1.0], 100, False),
        ([0.98, 1.0], 100, True),
    ],
)
def test_accuracy_moves_where_a_late_round_changed_it_by_more_than_its_noise(accuracies, n, told):
    assert moving(accuracies, n) is told


def test_the_excess_is_the_furthest_of_the_last_two_moves_beside_their_reach():
    """0.25 0.06 expected of 0.06 changed, 0.13 sqrt(0.06 + 1/100) = 0.0344 around it; no move in the first round."""
    measure = Measure(100)
    assert excess([0.5], [0.7], measure) == 0.0
    assert excess([0.1, 0.2], [0.7, 0.06], measure) == pytest.approx((0.1 - 0.015) / 0.0344, rel=0.01)
    assert excess([0.1, 0.9, 0.8, 0.8], [0.7, 0.5, 0.06, 0.0], measure) == pytest.approx(0.115 / 0.0344, rel=0.01)
    lucky = Measure(100, tested=20)  # a quarter of the square is no luck
    assert excess([0.1, 0.2], [0.7, 0.06], lucky) == pytest.approx((0.1 - 0.015) / 0.0688, rel=0.01)
