"""Agreement of two classifiers, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from psp_ray.run.stopping import agreement


@pytest.mark.parametrize("classes", [2, 3, 40])
def test_agreement_is_cohens_kappa_to_the_bit(classes):
    rng = np.random.default_rng(classes)
    for size in (1, 7, 300):
        one = 3 * rng.integers(0, classes, size)  # not every class has to occur
        other = np.where(rng.random(size) < 0.4, 3 * rng.integers(0, classes, size), one)
        other[0] = one[0] + 1
        kappa, changed = agreement(one, other)
        assert kappa == cohen_kappa_score(one, other)
        assert changed == np.mean(one != other)


def test_two_that_say_the_same_agree():
    assert agreement(np.array([1, 1]), np.array([1, 1])) == (1.0, 0.0)
