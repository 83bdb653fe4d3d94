"""Spread, paired differences and labels needed, against scipy, the standard library and a dense search."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from psp_ray.studies.statistics import labels_needed, paired_difference, spread

shares = st.floats(0, 1, allow_nan=False)


@given(st.lists(shares, min_size=2, max_size=9))
def test_spread_is_the_sample_one(values):
    found = spread(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.std == pytest.approx(statistics.stdev(values), abs=1e-12)


def test_spread_of_one_and_none():
    assert spread([]) is None
    assert (spread([0.4]).mean, spread([0.4]).std) == (0.4, None)


@given(st.lists(st.tuples(shares, shares), min_size=3, max_size=8))
def test_paired_difference_is_the_paired_t_interval(pairs):
    ours, theirs = ({seed: pair[place] for seed, pair in enumerate(pairs)} for place in (0, 1))
    found = paired_difference(ours, theirs)
    a, b = np.array(pairs).T
    assert found.mean == pytest.approx(np.mean(a - b), abs=1e-12)
    if np.ptp(a - b) < 1e-9:  # scipy divides by the spread
        assert found.low == pytest.approx(found.high, abs=1e-7)
        return
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_paired_difference_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.3027."""
    found = paired_difference({0: 2.0, 1: 4.0, 2: 6.0, 9: 5.0}, {2: 3.0, 1: 2.0, 0: 1.0, 7: 0.0})
    assert (found.mean, found.n) == (2.0, 3)
    assert found.high - found.mean == pytest.approx(4.30265273 / np.sqrt(3), abs=1e-7)
    assert found.mean - found.low == pytest.approx(4.30265273 / np.sqrt(3), abs=1e-7)


def test_pairs_are_common_seeds():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    one = paired_difference({0: 0.75, 3: 1.0}, {0: 0.5})
    assert (one.mean, one.low, one.high, one.n) == (0.25, None, None, 1)


def test_two_seeds_make_no_interval():
    two = paired_difference({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.5})
    assert (two.mean, two.low, two.high, two.n) == (0.125, None, None, 2)


def test_labels_needed_by_hand():
    labels, curve = [10, 20, 30], [0.2, 0.4, 0.5]
    assert labels_needed(labels, curve, 0.3).labels == pytest.approx(15)
    assert labels_needed(labels, curve, 0.4).labels == pytest.approx(20)
    assert labels_needed(labels, curve, 0.5).labels == pytest.approx(30)
    assert labels_needed(labels, curve, 0.51) is None
    below = labels_needed(labels, curve, 0.1)
    assert (below.labels, below.at_most) == (10, True)
    at = labels_needed(labels, curve, 0.2)
    assert (at.labels, at.at_most) == (10, False)
    assert labels_needed([10, 20, 30], [0.3, 0.1, 0.3], 0.3).labels == 10  # the first time counts


@given(st.lists(shares, min_size=1, max_size=8), shares)
def test_labels_needed_is_the_first_crossing(curve, target):
    labels = [10.0 * (i + 1) for i in range(len(curve))]
    grid = np.linspace(labels[0], labels[-1], 4001)
    above = np.interp(grid, labels, curve) >= target + 1e-9
    found = labels_needed(labels, curve, target)
    if found is None:
        assert not above.any()
        return
    assert np.interp(found.labels, labels, curve) >= target - 1e-6
    if above.any():
        assert found.labels <= grid[above.argmax()] + 1e-6
