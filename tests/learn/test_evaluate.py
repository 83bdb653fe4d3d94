"""Accuracy against scikit-learn, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from psp_ray.core.records import TextState
from psp_ray.learn import evaluate, predict_proba
from psp_ray.learn.evaluate import similarities
from tests.helpers import ArrayPool


def unit(rng, *shape):
    values = rng.standard_normal(shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 6), st.integers(1, 20))
def test_equals_scikit_learn(seed, n, n_classes, block_size):
    rng = np.random.default_rng(seed)
    text = TextState(unit(rng, n_classes, 5), 20.0)
    features, labels = unit(rng, n, 5).astype(np.float16), rng.integers(0, n_classes, n).astype(np.int32)
    guess = similarities(text, features).argmax(1)
    pool = ArrayPool(features, block_size=block_size)
    result = evaluate(text, (pool.block(index) for index in range(pool.n_blocks)), labels)
    assert result.n == n
    assert result.accuracy == pytest.approx(accuracy_score(labels, guess), abs=1e-12)
    occurring = labels if len(np.unique(labels)) else guess
    recall = [np.mean(guess[labels == label] == label) for label in np.unique(occurring)]
    assert result.macro_accuracy == pytest.approx(np.mean(recall), abs=1e-12)
    assert evaluate(text, [features], labels) == result


def test_macro_accuracy_is_balanced_accuracy():
    rng = np.random.default_rng(1)
    text = TextState(unit(rng, 4, 6), 20.0)
    features, labels = unit(rng, 500, 6), np.r_[np.zeros(400), np.arange(100) % 4].astype(np.int32)
    guess = similarities(text, features).argmax(1)
    assert evaluate(text, [features], labels).macro_accuracy == pytest.approx(balanced_accuracy_score(labels, guess))


@settings(max_examples=30, deadline=None)
@given(arrays(np.float16, (7, 3), elements=st.floats(-1, 1, width=16)))
def test_probabilities_are_the_softmax(features):
    text = TextState(unit(np.random.default_rng(0), 4, 3), 50.0)
    expected = softmax(50.0 * (features.astype(np.float64) @ text.features.T.astype(np.float64)), axis=1)
    probabilities = predict_proba(text, features)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, atol=2e-5)


def test_lengths_must_agree():
    text = TextState(np.eye(3, dtype=np.float32), 10.0)
    for blocks, labels in ([], []), ([np.eye(3)], [0, 1]), ([np.eye(3)], [0, 1, 2, 0]), ([np.eye(3)] * 2, [0, 1, 2]):
        with pytest.raises(ValueError, match="features"):
            evaluate(text, blocks, np.array(labels, np.int32))
