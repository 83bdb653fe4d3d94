"""A bias in the classifier reaches whoever asks for probabilities, scores, gradients and views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from psp_ray.acquisition.alfa_mix import caps
from psp_ray.acquisition.toolkit.distances import gradient_factors
from psp_ray.core.probability import class_probabilities, class_scores
from psp_ray.core.records import TextState
from psp_ray.policy.state import class_factor
from psp_ray.selftrain.ust import score_views

SCALE = 8.0


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    x, t = (rng.standard_normal((k, 6)).astype(np.float32) for k in (30, 4))
    x, t = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, t))
    return x, t, (3 * rng.standard_normal(4)).astype(np.float32)


def test_probabilities_and_scores_are_those_of_the_logits(parts):
    x, t, bias = parts
    logits = SCALE * x.astype(np.float64) @ t.T + bias
    assert class_probabilities(x, t, SCALE, bias) == pytest.approx(softmax(logits, axis=1), abs=1e-5)
    assert SCALE * class_scores(x, t, SCALE, bias) == pytest.approx(logits, abs=1e-4)


def test_a_bias_equals_a_column_of_ones(parts):
    """Everything that takes a bias gives what it gives for features with a constant beside them."""
    x, t, bias = parts
    longer, wider = np.hstack([x, np.ones((30, 1), np.float32)]), np.hstack([t, bias[:, None] / SCALE])
    assert gradient_factors(t, SCALE, bias)(x)[1] == pytest.approx(gradient_factors(wider, SCALE)(longer)[1], abs=1e-5)
    w, cos = class_factor(torch.tensor(x), torch.tensor(t), torch.tensor(bias / SCALE))
    assert w.numpy() == pytest.approx(class_factor(torch.tensor(longer), torch.tensor(wider))[0].numpy(), abs=1e-5)
    assert cos.numpy() == pytest.approx(class_scores(x, t, SCALE, bias), abs=1e-5)
    anchors = x[:3]
    found, plain = caps(x, t, SCALE, anchors, bias), caps(x, t, SCALE, anchors)
    assert found.shape == plain.shape
    assert not np.array_equal(found, plain)


def test_views_are_scored_with_the_bias(parts):
    x, t, bias = parts
    views = x.reshape(10, 3, 6)
    scores = score_views(views, TextState(t, SCALE, bias), probabilities=True)
    expected = softmax((SCALE * views.astype(np.float64) @ t.T + bias).mean(axis=1), axis=1)
    assert scores.probabilities == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(scores.labels, expected.argmax(axis=1))
