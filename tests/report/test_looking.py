"""What the page computes, against plain loops."""

from __future__ import annotations

import numpy as np

from psp_ray.report.looking import Plane, confusion, moves, nearest_cosine, share_nearer


def test_the_plane_is_that_of_the_covariance():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5)) @ np.diag([5.0, 3.0, 1.0, 0.5, 0.1])
    places = Plane(features).places(features)
    values, vectors = np.linalg.eigh(np.cov(features.T))
    expected = (features - features.mean(axis=0)) @ vectors[:, ::-1][:, :2]
    for column in range(2):
        sign = np.sign(places[0, column] * expected[0, column])
        np.testing.assert_allclose(places[:, column], sign * expected[:, column], atol=1e-8)
    assert values[-1] > values[0]


def test_shares_and_cosines_by_hand():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(30, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labeled = rows[:3]
    cosines = nearest_cosine(rows, labeled)
    for row, cosine in zip(rows, cosines, strict=True):
        assert abs(cosine - max(float(row @ other) for other in labeled)) < 1e-6
    for value, share in zip(cosines[:5], share_nearer(cosines[:5], cosines), strict=True):
        assert abs(share - np.mean([other > value for other in cosines])) < 1e-12


def test_moves_are_counted():
    before, after = np.array([0, 0, 0, 1, 2, 2]), np.array([1, 1, 0, 1, 0, 2])
    assert moves(before, after, ["a", "b", "c"], 5) == [("a", "b", 2), ("c", "a", 1)]
    assert moves(before, after, ["a", "b", "c"], 1) == [("a", "b", 2)]


def test_confusions_are_counted():
    rng = np.random.default_rng(2)
    truth, predicted = rng.integers(-1, 4, 50), rng.integers(0, 4, 50)
    expected = [[0] * 5 for _ in range(5)]
    for one, other in zip(truth, predicted, strict=True):
        if one >= 0:
            expected[one][other] += 1
    assert confusion(truth, predicted, 5) == expected
