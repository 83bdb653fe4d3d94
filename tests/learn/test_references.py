"""Reference classifiers against plain computations, finite differences and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.semi_supervised import LabelSpreading

from psp_ray.config.learn import LearnSettings
from psp_ray.core.errors import ConfigError
from psp_ray.core.records import TextState
from psp_ray.learn.heads import FitRequest, fit, one_hot
from psp_ray.learn.spreading import UNLABELED, spread_labels
from psp_ray.learn.tip_adapter import tip_adapter, tip_adapter_f
from tests.policy.worlds import World, unit


def data(k=12, n_classes=3, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    text = TextState(unit(rng.normal(size=(n_classes, dim))).astype(np.float32), 20.0)
    labels = np.arange(k) % n_classes
    x = unit(text.features[labels] + 0.7 * rng.normal(size=(k, dim))).astype(np.float32)
    return x, labels, text, rng


def test_the_cache_by_a_plain_loop():
    x, labels, text, rng = data()
    model = tip_adapter(x, labels, text)
    queries = unit(rng.normal(size=(5, 6))).astype(np.float32)
    expected = 20.0 * queries.astype(float) @ text.features.T.astype(float)
    for q, query in enumerate(queries):
        for key, label in zip(x, labels, strict=True):
            expected[q, label] += np.exp(-5.5 * (1 - query @ key))
    np.testing.assert_allclose(model.logits(queries), expected, rtol=1e-4)


def test_a_bias_of_the_teacher_counts():
    x, labels, text, _ = data()
    bias = np.array([3.0, -1.0, 0.5], np.float32)
    biased = TextState(text.features, text.logit_scale, bias)
    np.testing.assert_allclose(
        tip_adapter(x, labels, biased).logits(x), tip_adapter(x, labels, text).logits(x) + bias, rtol=1e-4
    )
    moved = tip_adapter_f(x, labels, biased).keys - tip_adapter_f(x, labels, text).keys
    assert np.abs(moved).max() > 0, "the keys are trained beside the bias"


def test_exchanging_classes_exchanges_logits():
    x, labels, text, _ = data()
    order = np.array([2, 0, 1])
    other = tip_adapter(x, np.argsort(order)[labels], TextState(text.features[order], text.logit_scale))
    np.testing.assert_allclose(other.logits(x), tip_adapter(x, labels, text).logits(x)[:, order], rtol=1e-5)


def loss(model, x, labels):
    p = softmax(model.logits(x).astype(float), axis=1)
    return -np.log(p[np.arange(len(x)), labels]).mean()


def test_training_lowers_the_loss_moves_keys_only_and_repeats():
    x, labels, text, _ = data(k=300)
    before, after = tip_adapter(x, labels, text), tip_adapter_f(x, labels, text, seed=1)
    assert loss(after, x, labels) < loss(before, x, labels) - 0.01
    np.testing.assert_array_equal(after.values, before.values)
    assert 0 < np.abs(after.keys - before.keys).max() <= 20 * 2 * 1e-3 * 1.5  # 40 steps of Adam
    torch.manual_seed(7)  # nobody else's noise is in it
    np.testing.assert_array_equal(tip_adapter_f(x, labels, text, seed=1).keys, after.keys)
    assert (tip_adapter_f(x, labels, text, seed=2).keys != after.keys).any()


def test_its_first_step_goes_down_the_slope():
    """One batch, so that Adam's first steps have the sign of the negative gradient wherever that is not tiny."""
    x, labels, text, _ = data(k=6)
    model, eps = tip_adapter(x, labels, text), 1e-3
    moved = tip_adapter_f(x, labels, text).keys - model.keys
    checked = 0
    for i in range(6):
        for j in range(6):
            up, down = model.keys.copy(), model.keys.copy()
            up[i, j] += eps
            down[i, j] -= eps
            slope = (loss_of(model, up, x, labels) - loss_of(model, down, x, labels)) / (2 * eps)
            if abs(slope) > 0.01:
                assert np.sign(moved[i, j]) == -np.sign(slope)
                checked += 1
    assert checked > 5


def loss_of(model, keys, x, labels):
    return loss(type(model)(keys, model.values, model.text), x, labels)


def test_nothing_to_learn_from_is_said():
    x, labels, text, _ = data()
    with pytest.raises(ConfigError, match="no labels"):
        tip_adapter(x[:0], labels[:0], text)
    with pytest.raises(ConfigError, match="no labels"):
        spread_labels(x, np.full(12, UNLABELED), 3)


def test_spreading_is_scikit_learn_s_and_knows_classes_nobody_has():
    world = World(n=200, n_classes=4, spread=0.8)
    labels = np.full(200, UNLABELED)
    for label in (0, 1, 3):
        labels[np.flatnonzero(world.truth == label)[:5]] = label
    got = spread_labels(world.features, labels, 4)
    theirs = LabelSpreading(kernel="knn", n_neighbors=7, alpha=0.2, max_iter=100).fit(world.features, labels)
    np.testing.assert_allclose(got[:, [0, 1, 3]], theirs.label_distributions_, atol=1e-9)
    assert (got[:, 2] == 0).all()
    np.testing.assert_allclose(got.sum(axis=1), 1.0)
    rest = (labels == UNLABELED) & (world.truth != 2)
    assert (got.argmax(axis=1) == world.truth)[rest].mean() > 0.6


def test_the_head_is_the_probe_of_spread_labels_whatever_else_was_said():
    world = World(n=150, n_classes=3, spread=0.8)
    bought = np.zeros(150, bool)
    for label in range(3):
        bought[np.flatnonzero(world.truth == label)[:4]] = True
    rng = np.random.default_rng(0)
    opinions = rng.dirichlet(np.ones(3), size=150).astype(np.float32)
    targets = np.where(bought[:, None], one_hot(world.truth, 3), opinions)
    weights = np.where(bought, 1.0, 0.5)
    request = FitRequest(world.features, targets, weights, bought, TextState(world.text, 50.0))
    got = fit("spreading", request, LearnSettings())
    spread = spread_labels(world.features, np.where(bought, world.truth, UNLABELED), 3)
    spread[bought] = one_hot(world.truth, 3)[bought]
    as_told = fit("linear", FitRequest(world.features, spread, weights, bought, request.zero_shot), LearnSettings())
    np.testing.assert_allclose(got.features, as_told.features, atol=1e-4)
    assert (got.features != fit("linear", request, LearnSettings()).features).any()
    alone = FitRequest(*(x[bought] for x in (world.features, targets, weights, bought)), request.zero_shot)
    plain = fit("linear", alone, LearnSettings())
    np.testing.assert_allclose(fit("spreading", alone, LearnSettings()).features, plain.features, atol=1e-5)


def test_what_no_label_reaches_is_uniform():
    """Two far blobs, labels in one of them."""
    rng = np.random.default_rng(0)
    x = np.repeat(np.array([[1.0, 0.0], [-1.0, 0.0]]), 10, axis=0) + 0.01 * rng.normal(size=(20, 2))
    labels = np.full(20, UNLABELED)
    labels[:5] = 0, 1, 0, 1, 0
    got = spread_labels(x.astype(np.float32), labels, 3)
    np.testing.assert_allclose(got[10:], 1 / 3)
    assert (got[:10, 2] == 0).all()
