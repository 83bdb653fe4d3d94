"""Classes with few or no labels lean on zero-shot; the others stay what was learned of them."""

from dataclasses import replace

import numpy as np
import pytest

from psp_ray.config.learn import LearnSettings
from psp_ray.core.records import Moments, TextState
from psp_ray.learn.evaluate import similarities
from psp_ray.learn.heads import FitRequest, affine_of, one_hot
from psp_ray.learn.heads.gda import natural
from psp_ray.learn.heads.leaning import HALF, LEAN, LEAST, ODDS, POWER, evened, leaning
from psp_ray.learn.solvers import Affine


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def request_of(seed=0, n_classes=5, dim=9, labeled=(0, 1, 2, 3)):
    """Samples of which the first two of each of some classes are bought, the others pseudo-labeled."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(n_classes, dim))
    truth = np.repeat(labeled, 12)
    x = unit(centers[truth] + 0.7 * rng.normal(size=(len(truth), dim)))
    bought = np.arange(len(truth)) % 12 < 2
    soft = 0.9 * one_hot(truth, n_classes) + 0.1 / len(labeled) * np.isin(np.arange(n_classes), labeled)
    targets = np.where(bought[:, None], one_hot(truth, n_classes), soft).astype(np.float32)
    text = TextState(unit(centers + 0.2 * rng.normal(size=centers.shape)), 15.0)
    return FitRequest(x, targets, np.where(bought, 1.0, 0.5), bought, text), truth, centers, rng


def test_equals_a_plain_reading_of_the_definition():
    request, _, _, rng = request_of()
    learned = Affine(rng.normal(size=(5, 9)), rng.normal(size=5))
    count = np.array([sum(w * t[c] for w, t in zip(request.weights, request.targets, strict=True)) for c in range(5)])
    share = np.append(count[:4], 0.0) / count[:4].sum()
    zero_shot, left, right = affine_of(request.zero_shot), [], []
    for row, weight in zip(request.features, request.weights, strict=True):
        said, z = (part.vectors @ row + part.bias for part in (learned, zero_shot))
        left += [np.sqrt(weight) * (z[c] - share @ z) for c in range(4)]
        right += [np.sqrt(weight) * (said[c] - share @ said) for c in range(4)]
    factor = max(np.linalg.lstsq(np.array(left)[:, None], np.array(right), rcond=None)[0][0], 0.0)
    got = leaning(learned, request).logits(request.features)
    for row, logits in zip(request.features, got, strict=True):
        said, z = (part.vectors @ row + part.bias for part in (learned, zero_shot))
        drawn = share @ said + factor * (z - share @ z)
        own = np.array([1.0, 1.0, 1.0, 1.0, count[4] / (count[4] + LEAN * (1 - 5 / 8))])
        np.testing.assert_allclose(logits, own * said + (1 - own) * drawn, atol=1e-6)


def test_what_lies_beside_the_rows_counts():
    request, _, _, rng = request_of()
    learned = Affine(rng.normal(size=(5, 9)), rng.normal(size=5))
    many = replace(request, rest=Moments(np.full(5, 1e7), np.zeros((5, 9)), np.zeros((9, 9))))
    np.testing.assert_allclose(leaning(learned, many).vectors, learned.vectors, atol=1e-4)


def test_as_many_labels_as_classes_or_a_label_of_each_leave_all_as_it_was():
    request, _, _, rng = request_of()
    learned = Affine(rng.normal(size=(5, 9)), rng.normal(size=5))
    assert leaning(learned, replace(request, bought=request.bought & (np.cumsum(request.bought) <= 5))) is learned
    whole, _, _, _ = request_of(labeled=(0, 1, 2, 3, 4))
    assert leaning(learned, whole) is learned


@pytest.mark.parametrize("labeled", [(), (2,)])
def test_less_than_two_labeled_classes_tell_nothing(labeled):
    request, truth, _, rng = request_of()
    learned = Affine(rng.normal(size=(5, 9)), rng.normal(size=5))
    few = replace(request, bought=request.bought & np.isin(truth, labeled))
    assert leaning(learned, few) is learned


def test_a_class_that_is_not_in_the_pool_is_known_as_the_teacher_knows_it():
    """Its few pseudo-labels are mistakes; what the teacher knows of it counts more."""
    before, after, teacher = [], [], []
    for seed in range(6):
        request, truth, centers, rng = request_of(seed, labeled=(0, 1, 2))
        wrong = ~request.bought & (rng.random(len(truth)) < 0.1)
        targets = request.targets.copy()
        targets[wrong] = one_hot(rng.integers(3, 5, int(wrong.sum())), 5)
        request = replace(request, targets=targets)
        learned = natural(request, LearnSettings())
        for absent in (3, 4):
            x = unit(centers[absent] + 0.5 * rng.normal(size=(200, 9)))
            leant = leaning(learned, request)
            for found, logits in ((before, learned.logits(x)), (after, leant.logits(x))):
                found.append((logits.argmax(axis=1) == absent).mean())
            teacher.append((similarities(request.zero_shot, x).argmax(axis=1) == absent).mean())
    assert np.mean(after) > np.mean(before) + 0.1
    assert np.mean(after) > np.mean(teacher) - 0.15


def alone(counts, seed=0, dim=9, noise=0.2):
    """Labels alone, so many of each class; the classes' centers and the generator beside them."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(len(counts), dim))
    truth = np.repeat(np.arange(len(counts)), counts)
    x = unit(centers[truth] + 0.7 * rng.normal(size=(len(truth), dim)))
    text = TextState(unit(centers + noise * rng.normal(size=centers.shape)), 15.0)
    everyone = np.ones(len(truth), bool)
    return FitRequest(x, one_hot(truth, len(counts)), np.ones(len(truth)), everyone, text), centers, rng


def test_few_labels_equal_a_plain_reading_of_the_definition():
    counts = [7, 3, 1, 0]
    request, _, rng = alone(counts)
    learned = Affine(rng.normal(size=(4, 9)), rng.normal(size=4))
    zero_shot, labels = affine_of(request.zero_shot), request.labels
    share = np.array(counts) / 11
    said = [learned.vectors @ row + learned.bias for row in request.features]
    known = [zero_shot.vectors @ row for row in request.features]
    pairs = [(z[c] - share @ z, s[c] - share @ s) for s, z in zip(said, known, strict=True) for c in range(3)]
    left, right = np.array(pairs).T
    factor = max(np.linalg.lstsq(left[:, None], right, rcond=None)[0][0], 0.0)
    right_of = [np.mean([known[i].argmax() == c for i in np.flatnonzero(labels == c)]) for c in range(3)]
    strength = ((sum(right_of) + 0.5) / 4) ** POWER
    odds = [np.log(n + HALF) for n in counts]
    odds = [value - share @ odds for value in odds]
    got = evened(learned, request).logits(request.features)
    for s, z, logits in zip(said, known, got, strict=True):
        for c in range(4):
            own = (counts[c] + LEAST) / (counts[c] + LEAST + strength)
            drawn = share @ s + factor * (z[c] - share @ z) + ODDS * odds[c]
            assert logits[c] == pytest.approx(own * (s[c] - ODDS * odds[c]) + (1 - own) * drawn, abs=1e-6)


def test_one_labeled_class_tells_nothing():
    request, _, rng = alone([4, 0, 0])
    learned = Affine(rng.normal(size=(3, 9)), rng.normal(size=3))
    assert evened(learned, request) is learned


def test_rare_classes_are_not_talked_out_of_what_a_strong_teacher_knows():
    """Class sizes fall as 1/k^2: recall, mean over classes, beside that of zero-shot and of labels alone."""
    before, after, teacher = [], [], []
    for seed in range(6):
        request, centers, rng = alone([40, 10, 4, 2, 1, 1, 0, 0], seed, noise=0.3)
        truth = np.repeat(np.arange(8), 50)
        x = unit(centers[truth] + 0.5 * rng.normal(size=(400, 9)))
        learned = natural(request, LearnSettings())
        for found, logits in ((before, learned.logits(x)), (after, evened(learned, request).logits(x))):
            found.append((logits.argmax(axis=1) == truth).mean())
        teacher.append((similarities(request.zero_shot, x).argmax(axis=1) == truth).mean())
    assert np.mean(after) > np.mean(before) + 0.05
    assert np.mean(after) > np.mean(teacher) - 0.02
