"""Dimensions and points of a sweep, without Ray."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psp_ray.core.errors import ConfigError
from psp_ray.studies.sweep.space import BUDGET, Dimension, grid_points, random_points


@pytest.mark.parametrize(
    ("key", "text", "choices", "interval"),
    [
        ("beta", "0.3,0.7", (0.3, 0.7), None),
        ("gamma", "0.5..0.99", (), (0.5, 0.99, False, False)),
        ("learning_rate", "1e-4..1e-2:log", (), (1e-4, 1e-2, True, False)),
        ("learning_steps", "10..100", (), (10, 100, False, True)),
        ("align", "softdtw,id", ("softdtw", "id"), None),
        ("learning-steps", "100", (100,), None),
        ("beta", "1e-1,1", (0.1, 1), None),
    ],
)
def test_dimensions_are_read_and_written_back(key, text, choices, interval):
    dimension = Dimension.parse(key, text)
    assert dimension.choices == choices
    if interval:
        assert (dimension.low, dimension.high, dimension.log, dimension.integer) == interval
    assert Dimension.parse(key, dimension.text()) == dimension


@pytest.mark.parametrize("text", ["", "0.3,0.3", "1..1", "2..1", "0..1:log", "a..b", "1..2:cube"])
def test_bad_dimensions_are_refused_in_one_line(text):
    with pytest.raises(ConfigError, match="--vary beta"):
        Dimension.parse("beta", text)
    with pytest.raises(ConfigError, match="not a setting"):
        Dimension.parse("betta", "1,2")


@given(seed=st.integers(0, 10_000), count=st.integers(1, 30), more=st.integers(0, 10))
def test_random_points_are_distinct_in_range_balanced_and_a_prefix(seed, count, more):
    space = [
        Dimension.parse("beta", "0..1"),
        Dimension.parse("tau", "0.01..0.5:log"),
        Dimension.parse("learning_steps", "10..20"),
    ]
    points = random_points(space, [1, 2, 4], count, seed)
    assert random_points(space, [1, 2, 4], count + more, seed)[:count] == points
    assert len({str(point) for point in points}) == count
    budgets = [point[BUDGET] for point in points]
    assert max(map(budgets.count, (1, 2, 4))) - min(map(budgets.count, (1, 2, 4))) <= 1
    for point in points:
        assert 0 <= point["beta"] <= 1
        assert 0.01 <= point["tau"] <= 0.5
        assert point["learning_steps"] in range(10, 21)


def test_log_intervals_are_drawn_evenly_on_the_log_scale():
    dimension = Dimension.parse("tau", "0.001..1:log")
    generator = np.random.default_rng(0)
    exponents = np.log10([dimension.draw(generator) for _ in range(4000)])
    counts, _ = np.histogram(exponents, bins=3, range=(-3, 0))
    assert abs(counts / 4000 - 1 / 3).max() < 0.03


def test_a_small_space_is_used_up_and_a_grid_holds_every_combination():
    space = [Dimension.parse("beta", "0.3,0.7"), Dimension.parse("align", "id,pad,vae")]
    everything = set(itertools.product((1, 2), (0.3, 0.7), ("id", "pad", "vae")))
    for points in (random_points(space, [1, 2], 50, 3), grid_points(space, [1, 2])):
        assert len(points) == 12
        assert {(p[BUDGET], p["beta"], p["align"]) for p in points} == everything
    with pytest.raises(ConfigError, match="interval"):
        grid_points([Dimension.parse("beta", "0..1")], [1])
