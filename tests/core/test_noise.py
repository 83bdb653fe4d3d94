"""Counter noise: reproducible, order-free, and distributed as it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from psp_ray.core import noise


@given(st.integers(0, 2**31), st.integers(0, 50), st.permutations(list(range(20))))
def test_noise_depends_on_the_sample_not_on_its_place(seed, round, order):
    keys = noise.sample_keys([f"image-{i}" for i in range(20)])
    whole = noise.uniform(seed, "query", keys, round=round)
    assert np.array_equal(noise.uniform(seed, "query", keys[order], round=round), whole[order])


def test_streams_differ_by_seed_round_purpose_and_draw():
    keys = noise.sample_keys([f"image-{i}" for i in range(1000)])
    base = noise.uniform(0, "a", keys)
    others = [
        noise.uniform(1, "a", keys),
        noise.uniform(0, "b", keys),
        noise.uniform(0, "a", keys, round=1),
        noise.uniform(0, "a", keys, draw=1),
    ]
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("draw", "distribution"),
    [(noise.uniform, stats.uniform()), (noise.normal, stats.norm()), (noise.gumbel, stats.gumbel_r())],
)
def test_distribution(draw, distribution):
    keys = noise.sample_keys([f"image-{i}" for i in range(20_000)])
    assert stats.kstest(draw(3, "test", keys), distribution.cdf).pvalue > 1e-3


def test_consecutive_integer_keys_are_independent():
    values = noise.uniform(0, "x", np.arange(20_000, dtype=np.uint64))
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


def test_uniform_stays_inside_the_open_interval(monkeypatch):
    extremes = np.array([0, 2**64 - 1], np.uint64)
    monkeypatch.setattr(noise, "bits", lambda *_, **__: extremes)
    low, high = noise.uniform(0, "x", extremes)
    assert 0.0 < low < high < 1.0
    assert np.isfinite(noise.gumbel(0, "x", extremes)).all()
