"""The heads' solvers against scikit-learn, scipy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from psp_ray.core.records import Moments
from psp_ray.learn import solvers
from psp_ray.learn.solvers import (
    BIAS_PENALTY,
    Affine,
    classifier,
    cross_entropy,
    fit_discriminant,
    fit_logistic,
    fit_scale,
    telling,
)


def clouds(seed, n=80, n_classes=4, dim=6, spread=0.7):
    """Unit features of overlapping classes with a large common part, labels, one-hot targets."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    centers = rng.standard_normal((n_classes, dim)) + 2.0
    x = centers[labels] + spread * rng.standard_normal((n, dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float32), labels, np.eye(n_classes)[labels]


@pytest.mark.parametrize("penalty", [0.01, 0.1, 1.0])
def test_logistic_equals_scikit_learn(penalty):
    x, labels, targets = clouds(0)
    found = fit_logistic(x, targets, np.ones(len(x)), penalty, steps=500)
    other = LogisticRegression(C=1 / penalty, max_iter=5000, tol=1e-8).fit(x.astype(np.float64), labels)
    # scikit-learn leaves the bias wholly free: here it costs next to nothing.
    assert softmax(found.logits(x), axis=1) == pytest.approx(other.predict_proba(x), abs=0.01)


def test_logistic_finds_the_minimum_of_its_loss_with_soft_labels_weights_and_offset():
    x, _, _ = clouds(1, n=40, n_classes=3, dim=4)
    rng = np.random.default_rng(1)
    targets, weights = rng.dirichlet(np.ones(3), 40), rng.uniform(0, 2, 40)
    offset = rng.standard_normal((40, 3))

    def loss(flat):
        w, b = flat[:12].reshape(3, 4), flat[12:]
        z = offset + x.astype(np.float64) @ w.T + b
        fit = -(weights[:, None] * targets * log_softmax(z, axis=1)).sum()
        return fit + 0.5 * 0.2 * (w**2).sum() + 0.5 * BIAS_PENALTY * (b**2).sum()

    best = minimize(loss, np.zeros(15), options={"maxiter": 2000, "gtol": 1e-7})
    found = fit_logistic(x, targets, weights, 0.2, offset=offset, steps=500)
    value = loss(np.concatenate([found.vectors.ravel(), found.bias]))
    assert value == pytest.approx(best.fun, abs=1e-3)
    assert found.vectors == pytest.approx(best.x[:12].reshape(3, 4), abs=0.03)


def test_discriminant_equals_scikit_learn():
    x, labels, targets = clouds(2, n=200)
    found = fit_discriminant(x, targets, np.ones(len(x)), 0.3)
    other = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3, priors=np.full(4, 0.25)).fit(x, labels)
    ours, theirs = softmax(found.logits(x), axis=1), other.predict_proba(x)
    # scikit-learn averages the classes' shrunken covariances, we shrink the average over the samples: close, not equal.
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.98
    assert ours == pytest.approx(theirs, abs=0.15)


def test_discriminant_equals_bayes_rule_from_plain_loops():
    x, _, _ = clouds(3, n=30, n_classes=3, dim=4)
    rng = np.random.default_rng(3)
    targets, weights = rng.dirichlet(np.ones(3), 30), rng.uniform(0, 1, 30)
    means, total, within = np.zeros((3, 4)), np.zeros(3), np.zeros((4, 4))
    for i in range(30):
        for c in range(3):
            total[c] += weights[i] * targets[i, c]
            means[c] += weights[i] * targets[i, c] * x[i]
    means /= total[:, None]
    for i in range(30):
        for c in range(3):
            off = (x[i] - means[c]).astype(np.float64)
            within += weights[i] * targets[i, c] * np.outer(off, off)
    within /= total.sum()
    covariance = 0.8 * within + 0.2 * np.trace(within) / 4 * np.eye(4)
    density = np.stack([multivariate_normal(means[c], covariance).logpdf(x) for c in range(3)], axis=1)
    found = fit_discriminant(x, targets, weights, 0.2)
    assert softmax(found.logits(x), axis=1) == pytest.approx(softmax(density, axis=1), abs=1e-5)


def test_discriminant_gives_a_class_without_samples_the_mean_of_the_opinions():
    x, labels, targets = clouds(4, n=120, n_classes=4)
    weights = (labels != 3).astype(float) * 1.0
    opinions = softmax(8.0 * targets, axis=1)
    # Only rows that count lend their opinions: the lacking class keeps a few unlabeled ones.
    some = np.flatnonzero(labels == 3)[:5]
    weights[some] = 1.0
    blank = targets.copy()
    blank[some] = 0.0
    without = fit_discriminant(x, blank, weights, 0.5).logits(x)
    with_prior = fit_discriminant(x, blank, weights, 0.5, prior=opinions, prior_weight=1.0).logits(x)
    hit = (with_prior.argmax(1) == labels)[labels == 3].mean()
    assert hit > 0.5 > (without.argmax(1) == labels)[labels == 3].mean()


def test_scale_is_the_one_that_scipy_finds():
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((200, 3))
    targets = np.eye(3)[[rng.choice(3, p=p) for p in softmax(2.5 * logits, axis=1)]]
    grid = np.linspace(0.5, 6, 2000)
    losses = [cross_entropy(s * logits, targets).sum() for s in grid]
    assert fit_scale(logits, targets, np.ones(200)) == pytest.approx(grid[int(np.argmin(losses))], abs=0.01)
    tight = fit_scale(logits, targets, np.ones(200), spread=0.01)
    assert abs(np.log(tight)) < abs(np.log(fit_scale(logits, targets, np.ones(200), spread=1.0)))
    assert fit_scale(logits, targets, np.zeros(200)) == 1.0


def test_cross_entropy_equals_scipy():
    rng = np.random.default_rng(6)
    logits, targets = 30 * rng.standard_normal((20, 5)), rng.dirichlet(np.ones(5), 20)
    assert cross_entropy(logits, targets) == pytest.approx(-(targets * log_softmax(logits, axis=1)).sum(1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_a_classifier_has_the_probabilities_of_its_logits(seed, size):
    rng = np.random.default_rng(seed)
    affine = Affine(size * rng.standard_normal((4, 6)), rng.standard_normal(4))
    x = rng.standard_normal((10, 6)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    vectors, bias, scale = classifier(affine)
    assert np.square(vectors).sum(1).mean() == pytest.approx(1.0, rel=1e-5)
    given_ = softmax(scale * (x @ vectors.T) + bias, axis=1)
    assert given_ == pytest.approx(softmax(affine.logits(x), axis=1), abs=1e-3)


@pytest.mark.parametrize("solve", [lambda *a: fit_logistic(*a, 0.1), lambda *a: fit_discriminant(*a, 0.2)])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_weight_zero_removes_a_sample_and_classes_may_be_exchanged(solve, seed):
    rng = np.random.default_rng(seed)
    x, _, _ = clouds(seed % 7, n=40)
    targets, weights = rng.dirichlet(np.ones(4), 40), rng.uniform(0.1, 1, 40)
    weights[rng.permutation(40)[:10]] = 0.0
    whole = solve(x, targets, weights)
    keep = weights > 0
    part = solve(x[keep], targets[keep], weights[keep])
    assert softmax(part.logits(x), axis=1) == pytest.approx(softmax(whole.logits(x), axis=1), abs=2e-3)
    order = rng.permutation(4)
    exchanged = solve(x, targets[:, order], weights)
    assert softmax(exchanged.logits(x), axis=1) == pytest.approx(softmax(whole.logits(x), axis=1)[:, order], abs=2e-3)


def test_the_same_input_gives_the_same_bits():
    x, _, targets = clouds(8)
    weights = np.linspace(0, 1, len(x))
    for solve in (lambda: fit_logistic(x, targets, weights, 0.1), lambda: fit_discriminant(x, targets, weights, 0.2)):
        one, other = solve(), solve()
        assert np.array_equal(one.vectors, other.vectors)
        assert np.array_equal(one.bias, other.bias)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), split=st.integers(1, 39), shrinkage=st.sampled_from([0.0, 0.3, 1.0]))
def test_moments_of_samples_do_as_well_as_the_samples(seed, split, shrinkage):
    """A discriminant from rows and moments of the rest is that of all rows."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(40, 5)) + 2.0
    t = draw.dirichlet(np.ones(3), 40)
    w = draw.uniform(0.5, 2.0, 40)
    mass = t[split:] * w[split:, None]
    rest = Moments(mass.sum(axis=0), mass.T @ x[split:], (x[split:] * mass.sum(axis=1)[:, None]).T @ x[split:])
    expected = fit_discriminant(x, t, w, shrinkage)
    found = fit_discriminant(x[:split], t[:split], w[:split], shrinkage, rest=rest)
    # What all classes share depends on where the center is, and says nothing.
    one, other = (log_softmax(affine.logits(x), axis=1) for affine in (found, expected))
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_a_scale_from_some_rows_is_about_that_of_all(monkeypatch):
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(6000, 4)) * 3.0
    targets = np.eye(4)[[draw.choice(4, p=np.exp(z) / np.exp(z).sum()) for z in 0.4 * logits]]
    whole = fit_scale(logits, targets, np.ones(6000))
    monkeypatch.setattr(solvers, "WHOLE", 1 << 12)
    monkeypatch.setattr(solvers, "ENOUGH", 1 << 13)
    some = fit_scale(logits, targets, np.ones(6000))
    assert some != whole
    assert some == pytest.approx(whole, rel=0.1)
    weights = draw.choice([0.0, 0.5, 1.0], 6000)
    rows, counts = telling(weights, 4)
    assert (weights[rows] > 0).all()
    assert counts.sum() == pytest.approx(weights.sum())
    # Whoever makes no logits of the other rows finds the same.
    assert fit_scale(logits[rows], targets[rows], counts) == fit_scale(logits, targets, weights)
