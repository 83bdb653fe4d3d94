"""The posterior's parts against plain loops, scipy and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from sklearn.covariance import oas

from psp_ray.neighbors.space import oracle_shrinkage
from psp_ray.posterior.opinions import (
    class_means,
    fitted_scale,
    graph_doubt,
    graph_opinion,
    graph_weight,
    log_likelihood,
    surely_right,
    teacher_strength,
    unheard_odds,
)
from tests.selftrain.conftest import unit


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 30), n_classes=st.integers(1, 7))
def test_the_likelihood_equals_scipys(seed, n, n_classes):
    draw = np.random.default_rng(seed)
    logits, labels = 30 * draw.normal(size=(n, n_classes)), draw.integers(0, n_classes, n).astype(np.int32)
    expected = special.log_softmax(logits, axis=1)[np.arange(n), labels].sum()
    assert log_likelihood(logits, labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("true_scale", [0.3, 1.0, 2.0])
def test_a_scale_is_found_again_and_few_labels_leave_it_near_the_prior(true_scale):
    draw = np.random.default_rng(3)
    logits = 3 * draw.normal(size=(4000, 6))
    odds = special.softmax(true_scale * logits, axis=1)
    labels = (odds.cumsum(axis=1) > draw.random((4000, 1))).argmax(axis=1).astype(np.int32)
    assert fitted_scale(logits, labels, 1.0, 0.7)[0] == pytest.approx(true_scale, rel=0.1)
    few = fitted_scale(logits[:2], labels[:2], 1.0, 0.05)[0]
    assert few == pytest.approx(1.0, abs=0.1)


def test_the_scale_is_the_best_one():
    draw = np.random.default_rng(1)
    logits, labels = draw.normal(size=(40, 5)), draw.integers(0, 5, 40).astype(np.int32)

    def loss(log_scale):
        found = special.log_softmax(np.exp(log_scale) * logits, axis=1)[np.arange(40), labels].sum()
        return 0.5 * ((log_scale - np.log(0.5)) / 0.7) ** 2 - found

    best = optimize.brute(loss, ((-4, 2),), Ns=2000)
    scale, value = fitted_scale(logits, labels, 0.5, 0.7)
    assert np.log(scale) == pytest.approx(float(best[0]), abs=1e-3)
    assert value == pytest.approx(-loss(np.log(scale)), abs=1e-9)


def test_the_graph_is_flat_where_nothing_arrives_and_sure_where_much_does():
    masses = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [500.0, 0.0, 0.0], [2.0, 1.0, 0.0], [3.0, 0.0, 0.0]])
    extra = 0.1 * np.median([0.0, 2.0, 500.0, 3.0, 3.0])
    expected = [[(m + extra / 3) / (sum(row) + extra) for m in row] for row in masses]
    np.testing.assert_allclose(np.exp(graph_opinion(masses)), expected, rtol=1e-5)
    np.testing.assert_allclose(np.exp(graph_opinion(np.zeros((4, 5)))), 0.2, rtol=1e-5)


def test_classes_without_a_label_share_a_mass_beside_what_labels_reach():
    draw = np.random.default_rng(5)
    masses = draw.gamma(1.0, size=(30, 6))
    masses[:, [2, 5]] = 0.0
    labels = np.array([0, 0, 0, 0, 1, 1, 3, 3, 4, 4], np.int32)
    odds = graph_opinion(masses) + unheard_odds(labels, 6, 0.8)
    median, given = np.median(masses.sum(axis=1)), masses + 0.1 * np.median(masses.sum(axis=1)) / 6
    given[:, [2, 5]] += 2.0 * 0.8**2 * (1 - 6 / 10) * median / 2
    expected = np.log(given / given.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(odds - odds[:, :1], expected - expected[:, :1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("labels", "strength"), [([0, 1, 0], 0.9), ([0, 1, 2, 0, 1], 0.9), ([0, 1, 0, 0], 0.0)])
def test_few_labels_all_classes_or_a_blind_teacher_leave_the_graph_alone(labels, strength):
    assert not unheard_odds(np.array(labels, np.int32), 3, strength).any()


def test_the_graph_counts_more_with_more_labels():
    even = np.log(np.full((5, 10), 0.1, np.float32))
    weights = [graph_weight(even, 0.1, m) for m in (0, 1, 10, 40, 80)]
    assert weights[0] == 0.0
    assert weights[2] == pytest.approx(0.45)
    assert (np.diff(weights) > 0).all()


def test_the_graph_counts_more_beside_a_weak_teacher_while_labels_are_few():
    sure = np.log(np.array([[0.6, 0.4], [0.2, 0.8]], np.float32))
    few = [graph_weight(sure, strength, 2) for strength in (0.05, 0.5, 0.7, 0.9, 1.0)]
    np.testing.assert_allclose(few, 0.45 * np.clip(0.7 / np.array([0.05, 0.5, 0.7, 0.9, 1.0]), 0.5, 2.5), rtol=1e-6)
    many = [graph_weight(sure, strength, 64) for strength in (0.05, 1.0)]
    assert many[0] / many[1] < 1.05


def test_a_teachers_strength_is_its_share_of_hits_and_two_labels_of_its_own():
    logits = np.log(np.array([[0.7, 0.3], [0.6, 0.4], [0.5, 0.5]], np.float32))
    assert teacher_strength(logits, np.array([0, 1, 0], np.int32)) == pytest.approx((2 + 2 * 0.6) / 5)


def slow_means(prior, teacher, places, rows, labels, sharpness, label_weight, steps):
    """Expectation maximization from the definition, sample by sample."""
    n, n_classes = prior.shape
    preferred = np.mean([special.softmax(row) for row in teacher], axis=0)
    bought = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    logits = [list(row) for row in prior]
    for _ in range(steps):
        share = [special.softmax(row) for row in logits]
        means = []
        bias = []
        for c in range(n_classes):
            total = np.zeros(places.shape[1])
            for i in range(n):
                weight = share[i][c] if i not in bought else label_weight * (bought[i] == c)
                total += weight * places[i]
            means.append(total / np.linalg.norm(total))
            size = (sum(row[c] for row in share) + 2.0) / (n + 2.0 * n_classes)
            bias.append(0.5 * (np.log(size) - np.log(preferred[c] + 0.1 / n_classes)))
        logits = [
            [prior[i][c] + sharpness * float(places[i] @ means[c]) + bias[c] for c in range(n_classes)]
            for i in range(n)
        ]
    return np.array(means), np.array(logits)


@pytest.mark.parametrize("steps", [1, 4])
def test_class_means_equal_the_plain_loop(steps):
    draw = np.random.default_rng(5)
    places = unit(draw.normal(size=(60, 8))).astype(np.float32)
    teacher, graph = draw.normal(size=(60, 4)), draw.normal(size=(60, 4))
    rows, labels = np.array([3, 17, 4, 50]), np.array([0, 1, 3, 3], np.int32)
    prior = (teacher + 0.7 * graph).astype(np.float32)
    options = {"sharpness": 9.0, "label_weight": 3.0, "steps": steps}
    found, logits = class_means(prior, teacher.astype(np.float32), places, rows, labels, **options)
    means, expected = slow_means(prior.astype(np.float64), teacher, places.astype(np.float64), rows, labels, **options)
    np.testing.assert_allclose(found.means, means, atol=1e-5)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(prior + found.logits(places), logits, atol=1e-6)


def test_class_means_repair_a_teacher_that_is_often_wrong():
    """The truth is known: clusters, and a teacher that is right on half of the images, at random."""
    draw = np.random.default_rng(0)
    centers = unit(draw.normal(size=(5, 20)))
    truth = np.repeat(np.arange(5), [200, 100, 50, 30, 20])
    places = unit(centers[truth] + 0.25 * draw.normal(size=(400, 20))).astype(np.float32)
    said = np.where(draw.random(400) < 0.5, truth, draw.integers(0, 5, 400))
    teacher = (1.5 * np.eye(5)[said]).astype(np.float32)
    nobody = np.zeros(0, np.int64)
    options = {"sharpness": 20.0, "label_weight": 3.0, "steps": 8}
    found, logits = class_means(teacher, teacher, places, nobody, nobody.astype(np.int32), **options)
    assert (teacher.argmax(1) == truth).mean() < 0.65
    assert (logits.argmax(1) == truth).mean() > 0.97
    assert np.einsum("cd,cd->c", found.means, centers).min() > 0.9


def test_shrinkage_is_that_of_scikit_learn_in_many_dimensions():
    # scikit-learn leaves the terms 2 / d of equation 23 out.
    draw = np.random.default_rng(2)
    samples = draw.normal(size=(150, 200)) * np.geomspace(1, 0.05, 200)
    covariance = samples.T @ samples / 150
    _, expected = oas(samples, assume_centered=True)
    assert oracle_shrinkage(covariance, 150) == pytest.approx(expected, abs=0.01)
    assert oracle_shrinkage(np.eye(7), 30) == 1.0


def opinions_of(right, sure, n=4000, n_classes=8, n_labels=40, seed=0):
    """A teacher that is right on a share of the images, and a graph on another, whose mistakes come apart."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(n_classes, size=n + n_labels)

    def guess(share):
        missed = (truth + draw.integers(1, n_classes, size=len(truth))) % n_classes
        return np.where(draw.random(len(truth)) < share, truth, missed)

    said, heard = guess(right), guess(sure)
    rounds = np.repeat(np.arange(1, n_labels // n_classes + 1), n_classes)
    return [(said[:n], said[n:])], heard[:n], truth[n:].astype(np.int32), rounds


@pytest.mark.parametrize("right", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_graph_that_is_right_as_often_as_it_is_sure_is_not_doubted(right, share):
    found = [graph_doubt(*opinions_of(right, share, seed=seed), share) for seed in range(8)]
    assert np.mean(found) > 0.8
    assert np.median(found) == 1.0


def test_a_graph_that_is_surer_than_right_is_doubted_the_more_it_is():
    found = [graph_doubt(*opinions_of(0.8, share), 0.7) for share in (0.15, 0.3, 0.5)]
    assert found == sorted(found)
    assert found[0] < 0.1
    assert found[2] < 0.9


def test_a_teacher_at_chance_has_no_say_about_the_graph():
    teachers, heard, labels, rounds = opinions_of(1 / 8, 1 / 8)
    assert graph_doubt(teachers, heard, labels, rounds, 0.9) == 1.0
    assert graph_doubt([(teachers[0][0], (labels + 1) % 8)], heard, labels, rounds, 0.9) == 1.0


def test_the_teacher_who_is_right_most_surely_has_the_say():
    teachers, heard, labels, rounds = opinions_of(0.8, 0.2)
    poor = opinions_of(0.2, 0.2)[0]
    assert graph_doubt([*poor, *teachers], heard, labels, rounds, 0.7) == graph_doubt(
        teachers, heard, labels, rounds, 0.7
    )


def test_where_no_label_speaks_for_what_the_teacher_says_nothing_is_said_of_the_graph():
    labels = np.array([0, 0], np.int32)
    none = np.full(5, 3)
    teachers = [(none, np.array([0, 0]))]
    assert graph_doubt(teachers, np.zeros(5, np.int64), labels, np.array([1, 1]), 0.9) == 1.0


def test_the_limit_of_a_share_holds_and_hard_later_labels_do_not_lower_it():
    draw = np.random.default_rng(0)
    rounds = np.repeat(np.arange(1, 4), 10)
    found = np.array([surely_right(draw.random(30) < 0.7, np.ones(30, np.int64)) for _ in range(2000)])
    assert np.mean(found <= 0.7) > 0.9
    first = np.ones(10, bool)
    assert surely_right(np.append(first, np.zeros(20, bool)), rounds) == surely_right(first, rounds[:10])
