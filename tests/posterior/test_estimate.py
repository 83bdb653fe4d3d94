"""Estimates from draws with known probabilities: unbiased, and with honest intervals, by simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psp_ray.posterior.estimate import (
    Estimate,
    estimate_mean,
    estimate_rest,
    inclusion_probabilities,
    threshold_for_precision,
)


def gumbel_top_k(draw, log_prob, k):
    """Positions of the k largest perturbed keys and the (k+1)-th key."""
    keys = log_prob + draw.gumbel(size=len(log_prob))
    order = np.argsort(-keys)
    return order[:k], keys[order[k]]


def policy(draw, n, right, peak, audit):
    """A softmax policy that prefers samples the teacher gets wrong, mixed with a uniform share."""
    score = peak * (0.5 * draw.normal(size=n) - right)
    a = np.exp(score - score.max())
    a /= a.sum()
    return np.log((1 - audit) * a + audit / n)


def simulate(n, k, accuracy, peak, audit, times, seed=0):
    draw = np.random.default_rng(seed)
    right = (draw.random(n) < accuracy).astype(float)
    log_prob = policy(draw, n, right, peak, audit)
    totals, estimates = [], []
    for _ in range(times):
        drawn, key = gumbel_top_k(draw, log_prob, k)
        q = inclusion_probabilities(log_prob[drawn], key, n)
        totals.append((right[drawn] / q).sum() / n)
        estimates.append(estimate_mean(right[drawn], q))
    return right.mean(), np.array(totals), estimates


@pytest.mark.parametrize(("k", "peak", "audit"), [(20, 0.0, 0.0), (20, 1.0, 0.1), (60, 2.0, 0.1)])
def test_inverse_probabilities_are_unbiased(k, peak, audit):
    truth, totals, estimates = simulate(500, k, 0.7, peak, audit, 4000)
    error = totals.std() / np.sqrt(len(totals))
    assert abs(totals.mean() - truth) < 4 * error
    values = np.array([estimate.value for estimate in estimates])
    assert abs(values.mean() - truth) < 0.03, "self-normalized: consistent, a small bias at most"
    if peak:
        assert values.std() < totals.std(), "that is what self-normalizing is for"


@pytest.mark.parametrize(
    ("n", "k", "accuracy", "peak", "audit"),
    [
        (1000, 50, 0.7, 0.0, 0.0),
        (1000, 50, 0.7, 1.0, 0.1),
        (1000, 100, 0.9, 1.5, 0.1),
        (1000, 20, 0.5, 1.0, 0.1),
        (300, 150, 0.8, 1.0, 0.1),
        (1000, 10, 0.6, 1.0, 0.1),
        (4000, 100, 0.6, -2.0, 0.1),
    ],
)
def test_intervals_cover_the_truth(n, k, accuracy, peak, audit):
    truth, _, estimates = simulate(n, k, accuracy, peak, audit, 1500, seed=k)
    covered = np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])
    assert covered >= 0.93
    width = np.mean([estimate.high - estimate.low for estimate in estimates])
    assert width < min(1.0, 8 * np.sqrt(accuracy * (1 - accuracy) / k)), "an interval that says nothing covers too"


def test_uniform_draws_give_the_plain_mean_and_sample_size():
    y = np.array([1.0, 0, 1, 1, 0])
    got = estimate_mean(y, np.full(5, 0.01))
    assert got.value == pytest.approx(0.6)
    assert got.n_effective == pytest.approx(5)


def test_whole_pool_bought_is_exact():
    q = inclusion_probabilities(np.log([0.5, 0.25, 0.25]), float("nan"), 3)
    assert estimate_mean(np.array([1.0, 0, 0]), q) == Estimate(1 / 3, 1 / 3, 1 / 3, pytest.approx(3.0))


def test_unknown_probabilities_give_nothing():
    assert inclusion_probabilities(np.array([np.nan, -1.0]), 0.3, 9) is None
    assert inclusion_probabilities(np.array([-2.0, -1.0]), float("nan"), 9) is None
    assert estimate_mean(np.zeros(0), np.zeros(0)) is None


def test_inclusion_probabilities_match_their_frequency():
    """Given the threshold k, sample i is in when log a_i + Gumbel > k: by simulation of single keys."""
    draw = np.random.default_rng(0)
    log_prob, key = np.log([0.5, 0.1, 0.01]), -1.0
    seen = (log_prob + draw.gumbel(size=(200_000, 3)) > key).mean(0)
    np.testing.assert_allclose(inclusion_probabilities(log_prob, key, 10), seen, atol=5e-3)
    assert inclusion_probabilities(np.array([-60.0]), 0.0, 10)[0] == pytest.approx(np.exp(-60.0))


def test_rest_of_the_pool():
    y = np.array([1.0, 0.0])
    whole = Estimate(0.5, 0.4, 0.6, 2.0)
    rest = estimate_rest(whole, y, 10)
    assert rest.value == pytest.approx((5 - 1) / 8)
    assert rest.low == pytest.approx((4 - 1) / 8)
    assert estimate_rest(whole, y, 2) is None


@settings(max_examples=200, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.floats(1e-6, 1.0)), min_size=1, max_size=30),
    level=st.sampled_from([0.5, 0.95]),
)
def test_limits_are_ordered_and_within_bounds(pairs, level):
    y, q = (np.array(column) for column in zip(*pairs, strict=True))
    got = estimate_mean(y, q, level=level)
    assert 0 <= got.low <= got.value <= got.high <= 1
    assert 1 - 1e-9 <= got.n_effective <= len(y) + 1e-9
    assert got.value == pytest.approx(np.average(y, weights=1 / q))
    if 0 < got.value < 1 and (q < 1).all():
        assert got.low < got.value < got.high
    with pytest.raises(ValueError, match=r"0\.\.1"):
        estimate_mean(y + 1.5, q)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 8), st.booleans(), st.sampled_from([0.1, 0.5, 1.0])), min_size=0, max_size=25
    ),
    target=st.sampled_from([0.5, 0.8, 0.95]),
)
def test_threshold_against_trying_them_all(rows, target):
    confidence = np.array([row[0] / 8 for row in rows])
    correct = np.array([float(row[1]) for row in rows])
    q = np.array([row[2] for row in rows])
    good = [
        t
        for t in set(confidence)
        if (confidence >= t).sum() >= 5
        and np.average(correct[confidence >= t], weights=1 / q[confidence >= t]) >= target - 1e-12
    ]
    got = threshold_for_precision(confidence, correct, q, target - 1e-12)
    assert got == (min(good) if good else None)
