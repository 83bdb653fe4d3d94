"""The mixture's weight: evidence first, the teacher's hits where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from psp_ray.config.learn import LearnSettings
from psp_ray.learn.heads import affine_of, fit
from psp_ray.learn.heads.auto import (
    LEAST_SHARE,
    SHARES,
    Evidence,
    choose_share,
    evidence,
    expected_share,
    learned_of,
    teacher_of,
)
from psp_ray.learn.solvers import cross_entropy
from tests.learn.heads.test_heads import SETTINGS, World


def opinions(rng, labels, sure):
    """Logits of a judge who is right with odds that `sure` says."""
    logits = rng.standard_normal((len(labels), 5))
    logits[np.arange(len(labels)), labels] += sure
    return logits


def test_evidence_outweighs_the_prior():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    good, bad = opinions(rng, labels, 4.0), opinions(rng, labels, 0.0)
    assert choose_share(Evidence(good, bad, labels), 0.8) <= 0.2
    assert choose_share(Evidence(bad, good, labels), 0.1) >= 1.6


def test_without_evidence_the_prior_decides():
    none = Evidence(np.zeros((0, 5)), np.zeros((0, 5)), np.zeros(0, np.int64))
    for share in SHARES[1:]:
        assert choose_share(none, share) == share


def test_the_chosen_share_has_the_largest_posterior_of_a_plain_search():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 60)
    found = Evidence(opinions(rng, labels, 2.0), opinions(rng, labels, 1.5), labels)
    targets = np.eye(5)[labels]

    def posterior(share):
        logits = found.learned + share * found.teacher
        grid = np.exp(np.linspace(-4, 4, 801))
        fits = [cross_entropy(s * logits, targets).sum() + 0.5 * (np.log(s) / 0.7) ** 2 for s in grid]
        return min(fits) + 0.5 * np.log(max(share, LEAST_SHARE / 2) / 0.4) ** 2

    assert choose_share(found, 0.4) == SHARES[int(np.argmin([posterior(share) for share in SHARES]))]


def test_the_teachers_hits_say_how_much_of_it_to_expect():
    weak, strong = World(1, noise=8.0), World(1, noise=0.0)
    assert expected_share(weak.request()) == LEAST_SHARE
    assert expected_share(strong.request()) > 0.8


@pytest.mark.parametrize("hit", [True, False])
def test_one_label_does_not_decide_alone(hit):
    """By a plain count: five labels' worth of what pseudo-labels say, and one label that hits or misses."""
    request = World(3, noise=1.0).request(per_class=1)
    said = (request.features @ request.zero_shot.features.T).argmax(axis=1)
    targets = request.targets.copy()
    first = np.flatnonzero(request.bought)[0]
    targets[first] = np.eye(targets.shape[1])[said[first] if hit else (said[first] + 1) % targets.shape[1]]
    bought = np.zeros(len(targets), bool)
    bought[first] = True
    request = replace(request, targets=targets, bought=bought, folds=())
    others = [i for i in range(len(targets)) if i != first and request.weights[i] > 0]
    total = sum(request.weights[i] for i in others)
    agreed = sum(request.weights[i] * targets[i, said[i]] for i in others) / total
    assert expected_share(request) == pytest.approx(max(2 * ((hit + 5 * agreed) / 6) ** 4, LEAST_SHARE))
    alone = replace(request, weights=np.where(bought, 1.0, 0.0))
    assert expected_share(alone) == pytest.approx(max(2 * ((hit + 0.5) / 2) ** 4, LEAST_SHARE))


def test_evidence_is_about_labels_that_were_not_seen():
    request = World(2).request(per_class=3, folds=3)
    found = evidence(request, SETTINGS)
    assert len(found.labels) == 18  # two more labels of each class are left in every fold
    seen = learned_of(request, SETTINGS).logits(request.features[request.bought])
    honest = cross_entropy(found.learned, np.eye(6)[found.labels]).mean()
    assert honest > cross_entropy(seen, np.eye(6)[request.labels]).mean()
    # With other answers for the held labels, what is said about them stays the same.
    lies = request.targets.copy()
    held = request.folds[0].held
    lies[held] = np.roll(lies[held], 1, axis=1)
    other = replace(request, targets=lies, folds=request.folds[:1])
    one = evidence(replace(request, folds=request.folds[:1]), SETTINGS)
    assert np.array_equal(evidence(other, SETTINGS).learned, one.learned)
    assert not np.array_equal(evidence(other, SETTINGS).labels, one.labels)


def test_held_labels_of_classes_without_another_label_are_no_evidence():
    request = World(3).request(per_class=1, folds=3)
    assert len(evidence(request, SETTINGS).labels) == 0


def test_labels_that_make_the_teacher_wrong_make_it_less_sure():
    world = World(4, noise=8.0)
    request = world.request(per_class=8)
    before, after = world.zero_shot.logit_scale * world.zero_shot.features, teacher_of(request).vectors
    assert np.linalg.norm(after) < 0.7 * np.linalg.norm(before)


@pytest.mark.parametrize("noise", [0.0, 8.0])
def test_auto_is_about_as_good_as_the_better_of_its_parts(noise):
    world = World(5, noise=noise, spread=1.5)
    request = world.request(per_class=4, folds=4)
    parts = [world.accuracy(fit(name, request, LearnSettings())) for name in ("gda", "zero-shot")]
    assert world.accuracy(fit("auto", request, LearnSettings())) >= max(parts) - 0.03


def test_auto_is_as_sure_as_its_targets():
    world = World(6)
    request = world.request(per_class=4)
    logits = affine_of(fit("auto", request, SETTINGS)).logits(world.x)
    loss = {factor: request.weights @ cross_entropy(factor * logits, request.targets) for factor in (0.8, 1.0, 1.25)}
    assert min(loss, key=loss.__getitem__) == 1.0
