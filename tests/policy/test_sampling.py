"""The draw and its probabilities against brute force, scipy and slow loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from scipy.stats import entropy as scipy_entropy
from scipy.stats import multinomial

from psp_ray.config.kinds import INDICATORS
from psp_ray.core import noise
from psp_ray.policy import indicator, sampling

KEYS = noise.sample_keys([f"s{i}" for i in range(2000)])


def draw_once(log_a, k, round, size=None):
    gumbel = noise.gumbel(0, "test", KEYS[: len(log_a)], round=round)
    spans = np.array_split(np.arange(len(log_a)), size or 1)
    return sampling.draw([(s, log_a[s], gumbel[s], KEYS[s]) for s in spans], k)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-700, 700), max_size=6), min_size=1, max_size=5))
def test_streamed_log_sum_exp_equals_scipy(blocks):
    sums = sampling.LogSumExp()
    for block in blocks:
        sums.add(np.array(block))
    everything = np.concatenate([np.array(b, float) for b in blocks])
    expected = logsumexp(everything) if len(everything) else -np.inf
    assert sums.value == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_probabilities_sum_to_one():
    logits = np.random.default_rng(0).normal(size=50) * 4
    log_a = sampling.log_probabilities(logits, logsumexp(logits))
    np.testing.assert_allclose(log_a, log_softmax(logits), rtol=1e-12)
    assert np.exp(log_a).sum() == pytest.approx(1.0)


def test_streamed_draw_equals_the_whole_in_any_cut():
    log_a = np.log(np.random.default_rng(1).dirichlet(np.ones(500)))
    whole = draw_once(log_a, 20, 3)
    for cut in (2, 7, 500):
        parts = draw_once(log_a, 20, 3, cut)
        np.testing.assert_array_equal(whole[0], parts[0])
        np.testing.assert_array_equal(whole[1], parts[1])
        assert whole[2] == parts[2]
    perturbed = log_a + noise.gumbel(0, "test", KEYS[:500], round=3)
    np.testing.assert_array_equal(whole[0], np.argsort(-perturbed)[:20])
    assert whole[2] == np.sort(perturbed)[-21]


def test_ties_are_broken_by_sample_key_whatever_the_cut():
    log_a, zero = np.zeros(40), np.zeros(40)
    expected = np.argsort(KEYS[:40])[:5]
    for cut in (1, 3, 40):
        spans = np.array_split(np.arange(40), cut)
        positions, _, next_key = sampling.draw([(s, log_a[s], zero[s], KEYS[s]) for s in spans], 5)
        np.testing.assert_array_equal(positions, expected)
        assert next_key == 0.0


def test_inclusion_frequencies_equal_successive_sampling_without_replacement():
    a = np.array([0.45, 0.25, 0.15, 0.1, 0.05])
    exact = np.zeros(5)
    for first, second in itertools.permutations(range(5), 2):
        chance = a[first] * a[second] / (1 - a[first])
        exact[[first, second]] += chance
    trials = 6_000
    counts = np.zeros(5)
    for trial in range(trials):
        counts[draw_once(np.log(a), 2, trial)[0]] += 1
    error = np.sqrt(exact * (1 - exact) / trials)
    assert np.all(np.abs(counts / trials - exact) < 4 * error)
    assert np.any(np.abs(counts / trials - 2 * a) > 10 * error)  # and not the naive k * a


def test_entropy_equals_scipy():
    a = np.random.default_rng(0).dirichlet(np.ones(40))
    assert sampling.entropy(np.log(a)) == pytest.approx(scipy_entropy(a))
    assert sampling.entropy(np.log(a) + 3.0) == pytest.approx(scipy_entropy(a))


@pytest.mark.parametrize(("n", "k"), [(4, 1), (10, 4), (300, 30), (5, 5)])
def test_ms_indicator_equals_scipys_multinomial(n, k):
    a = np.random.default_rng(n).dirichlet(np.ones(n))
    chosen = np.random.default_rng(k).choice(n, k, replace=False)
    g = np.zeros(n, int)
    g[chosen] = 1
    value = indicator.multinomial(np.log(a[chosen]))
    assert value == pytest.approx(multinomial.logpmf(g, k, a), rel=1e-9)
    assert value <= 0


def test_uniform_references_equal_the_indicators_at_uniform_probabilities():
    log_a = np.full(7, -np.log(20))
    for entry in INDICATORS:
        kind = entry.value()
        assert kind.uniform(20, 7) == pytest.approx(kind.of(log_a))
        assert kind.of(log_a) <= 0
    full = np.full(5, -np.log(5))
    assert INDICATORS.find("plackett-luce")().of(full) == pytest.approx(-np.log(120))


def test_plackett_luce_is_a_distribution_over_ordered_draws():
    a = np.array([0.5, 0.2, 0.2, 0.1])
    kind = INDICATORS.find("plackett-luce")()
    orders = list(itertools.permutations(range(4), 3))
    chances = [np.exp(kind.of(np.log(a[list(order)]))) for order in orders]
    assert sum(chances) == pytest.approx(1.0)
    assert chances[0] == pytest.approx(0.5 * (0.2 / 0.5) * (0.2 / 0.3))
