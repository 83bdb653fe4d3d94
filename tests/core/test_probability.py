"""Softmax and entropies against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax as reference
from scipy.stats import entropy

from psp_ray.core.probability import class_probabilities, entropies, softmax


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.floats(0, 700), st.integers(0, 2**16))
def test_equals_scipy(n, n_classes, spread, seed):
    logits = np.random.default_rng(seed).uniform(-spread, spread, (n, n_classes))
    p = softmax(logits)
    np.testing.assert_allclose(p, reference(logits, axis=1), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(entropies(p), entropy(p, axis=1), atol=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_keeps_the_precision_and_its_input(kind):
    logits = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(kind)
    before = logits.copy()
    assert softmax(logits).dtype == kind
    np.testing.assert_array_equal(logits, before)


def test_class_probabilities_are_those_of_scaled_cosines():
    draw = np.random.default_rng(0)
    f, text = draw.normal(size=(9, 4)).astype(np.float32), draw.normal(size=(3, 4)).astype(np.float32)
    expected = reference(30.0 * (f @ text.T).astype(np.float64), axis=1)
    np.testing.assert_allclose(class_probabilities(f, text, 30.0), expected, rtol=1e-12)
