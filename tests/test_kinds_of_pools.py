"""Pools of odd kinds: what each claims of itself, and the table of differences."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.kinds_of_pools import KINDS, TEST, curves, differences, interval, make, play, table


@pytest.fixture(scope="module", params=list(KINDS))
def made(request):
    return request.param, make(request.param, 3)


def right(data, rows):
    said = (data.features[rows].astype(np.float32) @ data.teacher.features.T).argmax(axis=1)
    return float(np.mean(said == data.labels[rows]))


def test_a_pool_is_what_its_kind_says(made):
    name, data = made
    kind = KINDS[name]
    assert data.features.shape == (kind.n + TEST, kind.dim)
    np.testing.assert_allclose(np.linalg.norm(data.features.astype(float), axis=1), 1, atol=3e-3)
    assert set(data.labels) <= set(range(kind.classes))
    assert data.teacher.features.shape == (kind.classes, kind.dim)
    chance, zero_shot = 1 / kind.classes, right(data, data.test)
    if kind.wrong:
        assert zero_shot < chance + 0.1
    elif not kind.groups and not kind.moved:
        assert zero_shot > chance
    if kind.same:
        counts = np.unique(data.features[data.pool], axis=0, return_counts=True)[1]
        assert counts.max() == pytest.approx(kind.same * kind.n, rel=0.4)
    if kind.sizes:
        sizes = np.sort(np.bincount(data.labels[data.pool], minlength=kind.classes))
        assert sizes[-1] > 10 * max(sizes[0], 1)


def test_seeds_make_other_pools():
    one, same, other = make("groups", 0), make("groups", 0), make("groups", 1)
    np.testing.assert_array_equal(one.features, same.features)
    np.testing.assert_array_equal(one.teacher.features, same.teacher.features)
    assert (one.features != other.features).any()


def test_a_stronger_teacher_is_stronger():
    weak, strong = make("wrong labels", 0), make("wrong labels and a strong teacher", 0)
    assert right(strong, strong.test) > right(weak, weak.test) + 0.1


def test_a_pool_that_ends_keeps_its_last_accuracy():
    found = play("more classes than images", "random", 0, 6, {"self_training": "none", "head": "gda"})
    assert len(found) == 7
    assert found[5] == found[6]  # 120 images, 25 a round, 90 % of the pool


def test_differences_are_paired():
    draw = np.random.default_rng(0)
    rows = [
        {"kind": kind, "strategy": name, "seed": seed, "accuracies": " ".join(f"{x:.5f}" for x in draw.random(4))}
        for kind in "ab"
        for name in ("one", "two")
        for seed in range(3)
    ]
    runs = curves(pd.DataFrame(rows))
    apart = differences(runs, ["one", "two"])
    for kind in "ab":
        last = [
            [float(row["accuracies"].split()[-1]) for row in rows if (row["kind"], row["strategy"]) == (kind, name)]
            for name in ("one", "two")
        ]
        assert apart.loc[kind, ("two", "final")] == pytest.approx(100 * np.mean(np.subtract(*last)))
    shown = table(runs, ["one", "two"])
    assert "over 2 kinds" in shown
    assert len([line for line in shown.splitlines() if line.startswith("| ")]) == 3
    values = draw.normal(size=6)
    low, high = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    assert interval(values) == f"{values.mean():+.1f} [{low:+.1f}, {high:+.1f}]"
