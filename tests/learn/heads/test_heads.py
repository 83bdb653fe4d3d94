"""Every head: a function of its request, exact where it says so, and no worse than what it starts from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from psp_ray.config.learn import LearnSettings
from psp_ray.core.errors import ConfigError
from psp_ray.core.records import TextState
from psp_ray.learn.evaluate import predict_proba, similarities
from psp_ray.learn.heads import HEADS, FitRequest, Fold, affine_of, fit, one_hot, text_of
from psp_ray.learn.heads._base import TEMPERATURE_SPREAD
from psp_ray.learn.heads.residual import size_odds
from psp_ray.learn.solvers import Affine, fit_logistic, fit_scale

SETTINGS = LearnSettings()
NAMES = ["auto", "gda", "linear", "prompt", "residual", "spreading", "zero-shot"]


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


class World:
    """Classes in a cone, as CLIP's features are; a teacher that errs as much as `noise` says."""

    def __init__(self, seed=0, n=240, n_classes=6, dim=16, noise=0.5, spread=0.6, scale=12.0):
        self.rng = rng = np.random.default_rng(seed)
        centers = rng.standard_normal((n_classes, dim))
        centers = 4.0 * unit(centers - centers.mean(1, keepdims=True))  # at right angles to the common part
        self.n_classes = n_classes
        self.labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
        self.x = unit(centers[self.labels] + 2.0 + spread * rng.standard_normal((n, dim)))
        gap = 4.0 * unit(np.linalg.svd(np.vstack([centers, np.ones(dim)]))[2][-1])
        self.zero_shot = TextState(unit(centers + gap + noise * rng.standard_normal(centers.shape)), scale)

    def request(self, per_class=2, sure=0.7, folds=0):
        """The first labels of each class, the rest pseudo-labeled by a teacher that is `sure` often right."""
        bought = np.zeros(len(self.x), bool)
        for c in range(self.n_classes):
            bought[np.flatnonzero(self.labels == c)[:per_class]] = True
        right = self.rng.random(len(self.x)) < sure
        guess = np.where(right, self.labels, self.rng.integers(0, self.n_classes, len(self.x)))
        opinion = (0.6 * one_hot(guess, self.n_classes) + 0.4 / self.n_classes).astype(np.float32)
        targets = np.where(bought[:, None], one_hot(self.labels, self.n_classes), opinion)
        weights = np.where(bought, 1.0, 0.5)
        cut = []
        for k in range(folds):
            held = np.flatnonzero(bought)[k::folds]
            without = targets.copy()
            without[held] = opinion[held]
            cut.append(Fold(held, without, np.where(bought & ~np.isin(np.arange(len(bought)), held), 1.0, 0.5)))
        return FitRequest(self.x, targets, weights, bought, self.zero_shot, folds=tuple(cut))

    def accuracy(self, text):
        return float((similarities(text, self.x).argmax(1) == self.labels).mean())


def with_prompt(request):
    learned = unit(request.zero_shot.features + 0.05)
    return replace(request, prompt=TextState(learned, request.zero_shot.logit_scale))


def test_the_registry_knows_them_all_by_name_and_source():
    assert [name for name in HEADS.names() if name in NAMES] == NAMES
    assert HEADS.broken == []
    assert all(HEADS.entry(name).source and HEADS.entry(name).summary for name in NAMES)
    with pytest.raises(ConfigError, match=r"--head lineer: unknown head.*linear"):
        fit("lineer", World().request(), SETTINGS)


@pytest.mark.parametrize("name", NAMES)
def test_classes_may_be_exchanged(name):
    request = with_prompt(World(1).request(folds=3))
    order = np.array([3, 1, 5, 0, 2, 4])

    def text(state):
        return TextState(state.features[order], state.logit_scale)

    exchanged = replace(
        request,
        targets=request.targets[:, order],
        zero_shot=text(request.zero_shot),
        prompt=text(request.prompt),
        folds=tuple(replace(fold, targets=fold.targets[:, order]) for fold in request.folds),
    )
    one, other = fit(name, request, SETTINGS), fit(name, exchanged, SETTINGS)
    assert predict_proba(other, request.features) == pytest.approx(
        predict_proba(one, request.features)[:, order], abs=5e-3
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_weight_zero_changes_nothing(name):
    request = with_prompt(World(2).request(folds=3))
    out = ~request.bought & (np.arange(len(request.bought)) % 3 == 0)
    blank = replace(
        request,
        weights=np.where(out, 0.0, request.weights),
        folds=tuple(replace(fold, weights=np.where(out, 0.0, fold.weights)) for fold in request.folds),
    )
    rows = np.flatnonzero(~out)
    place = np.cumsum(~out) - 1
    removed = replace(
        blank,
        features=request.features[rows],
        targets=request.targets[rows],
        weights=request.weights[rows],
        bought=request.bought[rows],
        folds=tuple(Fold(place[f.held], f.targets[rows], f.weights[rows]) for f in request.folds),
    )
    one, other = fit(name, blank, SETTINGS), fit(name, removed, SETTINGS)
    assert predict_proba(other, request.features) == pytest.approx(predict_proba(one, request.features), abs=5e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_request_gives_the_same_bits(name):
    request = with_prompt(World(3).request(folds=2))
    one, other = fit(name, request, SETTINGS), fit(name, request, SETTINGS)
    assert one.features.tobytes() == other.features.tobytes()
    assert one.logit_scale == other.logit_scale
    assert np.array_equal(one.bias if one.bias is not None else 0, other.bias if other.bias is not None else 0)


@pytest.mark.parametrize("name", ["auto", "gda", "linear", "residual"])
def test_learning_beats_a_weak_teacher(name):
    world = World(4, noise=6.0)
    request = world.request(per_class=8)
    assert world.accuracy(fit(name, request, SETTINGS)) > world.accuracy(world.zero_shot) + 0.2


@pytest.mark.parametrize("name", ["auto", "residual"])
def test_a_strong_teacher_is_not_thrown_away(name):
    world = World(5, noise=0.0, spread=1.5, scale=12.0)
    request = world.request(per_class=1)
    labels_only = replace(request, weights=np.where(request.bought, 1.0, 0.0))
    assert world.accuracy(world.zero_shot) > 0.8
    assert world.accuracy(fit(name, labels_only, SETTINGS)) > world.accuracy(world.zero_shot) - 0.03


def test_linear_equals_scikit_learn_on_weighted_labels():
    world = World(6)
    request = world.request(per_class=6)
    hard = replace(request, targets=one_hot(request.targets.argmax(1), 6))
    found = fit("linear", hard, LearnSettings(head_penalty=0.1))
    other = LogisticRegression(C=10.0, max_iter=5000).fit(
        world.x.astype(np.float64), hard.targets.argmax(1), sample_weight=hard.weights
    )
    assert predict_proba(found, world.x) == pytest.approx(other.predict_proba(world.x), abs=0.02)


def test_a_residual_under_a_heavy_penalty_is_its_anchor():
    world = World(7)
    request = world.request()
    found = fit("residual", request, LearnSettings(head_penalty=1e6))
    logits = affine_of(found).logits(world.x)
    anchor = affine_of(world.zero_shot).logits(world.x)
    # Only the bias, which has next to no penalty, may differ from the scaled anchor: it goes with the samples' mean.
    learned = logits - logits.mean(1, keepdims=True)
    learned = learned - learned.mean(0)
    known = anchor - anchor.mean(1, keepdims=True)
    known = known - known.mean(0)
    factor = (learned * known).sum() / (known**2).sum()
    assert np.ptp(learned - factor * known, axis=0) == pytest.approx(0.0, abs=1e-2)
    with_one = fit("residual", with_prompt(request), LearnSettings(head_penalty=1e6))
    assert not np.allclose(with_one.features, found.features, atol=1e-3)


def test_prompt_needs_prompts():
    request = World(8).request()
    assert fit("prompt", with_prompt(request), SETTINGS) is not None
    with pytest.raises(ConfigError, match="--head prompt: there are no prompts"):
        fit("prompt", request, SETTINGS)


def test_a_bias_is_part_of_similarities_and_probabilities():
    rng = np.random.default_rng(9)
    affine = Affine(5 * rng.standard_normal((4, 8)), 2 * rng.standard_normal(4))
    x = unit(rng.standard_normal((20, 8)))
    text = text_of(affine)
    expected = softmax(affine.logits(x), axis=1)
    assert predict_proba(text, x) == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(similarities(text, x).argmax(1), expected.argmax(1))
    assert softmax(affine_of(text).logits(x), axis=1) == pytest.approx(expected, abs=1e-6)


def test_requests_that_do_not_fit_together_are_refused():
    request = World(10).request()
    with pytest.raises(ConfigError, match="nothing to learn from"):
        fit("gda", replace(request, weights=np.zeros(len(request.weights))), SETTINGS)
    with pytest.raises(ValueError, match="not of the same samples"):
        fit("gda", replace(request, weights=request.weights[1:]), SETTINGS)
    with pytest.raises(ValueError, match="class embeddings"):
        fit("gda", replace(request, targets=request.targets[:, 1:]), SETTINGS)
    with pytest.raises(ValueError, match="not negative"):
        fit("gda", replace(request, weights=-request.weights), SETTINGS)


def test_held_labels_are_gone_from_a_fold():
    request = World(11).request(per_class=3, folds=3)
    for fold in request.folds:
        left = request.without(fold)
        assert not left.bought[fold.held].any()
        assert left.bought.sum() == request.bought.sum() - len(fold.held)
        assert (left.targets[fold.held].max(1) < 1).all()
        assert left.folds == ()


def skewed(seed):
    """A request of labels alone, 40 of one class down to none of the last, and images of all classes alike."""
    world = World(seed, n=900, noise=0.2, spread=0.9)
    counts = (40, 20, 6, 2, 1, 0)
    rows = np.concatenate([np.flatnonzero(world.labels == c)[:k] for c, k in enumerate(counts)])
    targets = one_hot(world.labels[rows], 6)
    return world, FitRequest(world.x[rows], targets, np.ones(len(rows)), np.ones(len(rows), bool), world.zero_shot)


def recall(world, text, classes):
    there = np.isin(world.labels, classes)
    return float((similarities(text, world.x).argmax(1) == world.labels)[there].mean())


def test_rare_classes_keep_what_zero_shot_knew_of_them():
    gain, whole = [], []
    for seed in range(6):
        world, request = skewed(seed)
        plain = affine_of(request.anchor)
        factor = fit_scale(plain.logits(request.features), request.targets, request.weights, TEMPERATURE_SPREAD)
        offset = plain.scaled(factor).logits(request.features)
        learned = fit_logistic(request.features, request.targets, request.weights, 1.0, offset=offset)
        before = text_of(plain.scaled(factor).plus(learned))
        after = fit("residual", request, LearnSettings(head_penalty=1.0))
        gain.append(recall(world, after, [3, 4, 5]) - recall(world, before, [3, 4, 5]))
        whole.append(recall(world, after, [0, 1]) - recall(world, before, [0, 1]))
    assert np.mean(gain) > 0.02
    assert np.mean(whole) > -np.mean(gain)


def test_sizes_of_classes_tell_nothing_where_all_have_as_many():
    world, request = skewed(0)
    rows = np.concatenate([np.flatnonzero(world.labels == c)[:3] for c in range(6)])
    even = replace(
        request,
        features=world.x[rows],
        targets=one_hot(world.labels[rows], 6),
        weights=np.full(18, 0.3),
        bought=np.ones(18, bool),
    )
    np.testing.assert_allclose(size_odds(even), 0.0, atol=1e-12)
    odds = size_odds(request)
    assert odds.sum() == pytest.approx(0.0, abs=1e-9)
    assert (np.diff(odds) < 0).all()
    assert odds[0] - odds[3] == pytest.approx(0.5 * np.log(40.01 / 2.01))


def test_a_fold_says_the_same_whether_it_was_asked_before_or_not():
    request, fresh = (World(12).request(per_class=3, folds=3) for _ in range(2))
    fit("auto", request, SETTINGS)
    for known, fold in zip(request.folds, fresh.folds, strict=True):
        assert request.without(known) is request.without(known)
        again = fit("auto", request.without(known), SETTINGS)
        first = fit("auto", replace(fresh, folds=()).without(fold), SETTINGS)
        np.testing.assert_array_equal(again.features, first.features)
        np.testing.assert_array_equal(again.bias, first.bias)
        assert again.logit_scale == first.logit_scale
