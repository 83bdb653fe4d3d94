"""Inclusion probabilities against simulated draws."""

import numpy as np
import pytest

from psp_ray.core import noise
from psp_ray.policy import sampling
from psp_ray.posterior.inclusion import inclusion_probabilities

KEYS = noise.sample_keys([f"s{i}" for i in range(2000)])


def draw_once(log_a, k, round):
    gumbel = noise.gumbel(0, "test", KEYS[: len(log_a)], round=round)
    return sampling.draw([(np.arange(len(log_a)), log_a, gumbel, KEYS[: len(log_a)])], k)


def test_horvitz_thompson_estimate_with_inclusion_probabilities_is_unbiased():
    rng = np.random.default_rng(0)
    a, y = rng.dirichlet(np.ones(30) * 0.7) * 0.9 + 0.1 / 30, rng.normal(size=30)
    estimates = []
    for trial in range(8000):
        positions, log_prob, key = draw_once(np.log(a), 8, trial)
        estimates.append((y[positions] / inclusion_probabilities(log_prob, key)).sum() / 30)
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - y.mean()) < 4 * error
    assert error < 0.02


def test_drawing_the_whole_pool_has_inclusion_one_and_no_next_key():
    positions, log_prob, key = draw_once(np.log(np.full(6, 1 / 6)), 6, 0)
    assert sorted(positions) == list(range(6))
    assert np.isnan(key)
    np.testing.assert_array_equal(inclusion_probabilities(log_prob, key), np.ones(6))


def test_inclusion_probabilities_match_their_frequency():
    """Given the threshold k, sample i is in when log a_i + Gumbel > k: by simulation of single keys."""
    draw = np.random.default_rng(0)
    log_prob, key = np.log([0.5, 0.1, 0.01]), -1.0
    seen = (log_prob + draw.gumbel(size=(200_000, 3)) > key).mean(0)
    np.testing.assert_allclose(inclusion_probabilities(log_prob, key), seen, atol=5e-3)
    assert inclusion_probabilities(np.array([-60.0]), 0.0)[0] == pytest.approx(np.exp(-60.0))
