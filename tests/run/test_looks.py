"""Groups of images that look alike, against scikit-learn's clustering."""

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from psp_ray.run.looks import groups


@pytest.mark.parametrize("count", [2, 5, 13])
def test_groups_are_those_of_wards_method(count):
    rows = np.random.default_rng(count).normal(size=(60, 9)).astype(np.float16)
    found = groups(rows, count)
    expected = AgglomerativeClustering(count, linkage="ward").fit_predict(rows.astype(np.float64))
    assert adjusted_rand_score(expected, found) == 1.0  # the same parts, whatever their numbers
    assert sorted(set(found)) == list(range(count))


def test_a_few_images_are_one_group():
    assert groups(np.eye(3), 1) == [0, 0, 0]
    assert groups(np.ones((4, 3)), 2) == [0, 0, 0, 0]
