"""Calibration, and stopping criteria."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score, log_loss

from psp_ray.core import noise
from psp_ray.core.errors import ConfigError
from psp_ray.posterior.audit import Answers
from psp_ray.posterior.calibration import Unseen, calibrate, fit_temperature, reliability, unseen_logits
from psp_ray.run.standing import excess
from psp_ray.run.stop import parse_stop, reason_to_stop
from psp_ray.run.stopping import Measure, agreement, expected_gain, likely_range, outlook, stop_set
from psp_ray.run.stops import STOPS, Evidence, Stop

# ---- calibration -----------------------------------------------------------------------------------------------------


def test_temperature_of_a_world_whose_temperature_is_known():
    draw = np.random.default_rng(0)
    logits = 3.0 * draw.normal(size=(4000, 5))
    chances = softmax(logits, axis=1)
    labels = np.array([draw.choice(5, p=p) for p in chances], np.int32)
    found = calibrate(Unseen(2.5 * logits, labels))
    assert found.temperature == pytest.approx(2.5, rel=0.05)
    assert found.ece_after < 0.03 < found.ece_before
    grid = np.exp(np.linspace(np.log(1.5), np.log(4.0), 400))
    best = grid[np.argmin([log_loss(labels, softmax(2.5 * logits / t, axis=1)) for t in grid])]
    assert found.temperature == pytest.approx(best, rel=0.02), "the prior is weak"


def test_few_labels_change_little():
    logits = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    assert 0.4 < fit_temperature(logits, np.array([0, 0, 1])) < 1
    assert fit_temperature(np.zeros((0, 2)), np.zeros(0, np.int32)) == 1.0
    assert calibrate(Unseen(np.zeros((0, 2)), np.zeros(0, np.int32))).n == 0


def test_the_audit_calibrates_and_without_one_the_latest_rounds():
    m = 200
    rounds = np.repeat(np.arange(1, 5), 50).astype(np.int32)
    classes = np.where(np.arange(m) % 5 == 0, -1, 0).astype(np.int32)
    logits = np.stack([np.arange(m, dtype=np.float32), -np.arange(m, dtype=np.float32)], axis=1)
    answers = Answers(np.arange(m), classes, rounds, np.zeros(m, bool), np.arange(m, dtype=np.uint64), logits)
    judged = np.full((100, 2), np.nan)
    judged[[1, 5, 7]] = [[5.0, 6.0], [0.0, 0.0], [7.0, 8.0]]  # row 5 was corrected to a skip since
    np.testing.assert_allclose(unseen_logits(answers, judged).logits, [[5.0, 6.0], [7.0, 8.0]])
    found = unseen_logits(answers, np.zeros((0, 2)))
    latest = [row for row in range(100, 200) if row % 5]  # rounds 3 and 4 hold 80 labels, round 4 alone 40
    np.testing.assert_allclose(found.logits[:, 0], latest)
    by_chance = np.arange(m) % 50 < 2
    some = Answers(np.arange(m), classes, rounds, by_chance, np.arange(m, dtype=np.uint64), logits)
    assert unseen_logits(some, np.zeros((0, 2))).logits[:, 0].tolist() == [1.0, 51.0, 101.0, 151.0]


def test_reliability_against_a_loop():
    draw = np.random.default_rng(0)
    confidence, weights = draw.random(500), draw.random(500)
    correct = (draw.random(500) < confidence).astype(float)
    found = reliability(confidence, correct, weights)
    for b in range(10):
        rows = (confidence >= b / 10) & (confidence < (b + 1) / 10)
        assert found.accuracy[b] == pytest.approx(np.average(correct[rows], weights=weights[rows]))
        assert found.share[b] == pytest.approx(weights[rows].sum() / weights.sum())


# ---- stopping --------------------------------------------------------------------------------------------------------


def test_agreement_is_kappa():
    draw = np.random.default_rng(0)
    one, other = draw.integers(0, 4, 200), draw.integers(0, 4, 200)
    assert agreement(one, other)[0] == pytest.approx(cohen_kappa_score(one, other))
    assert agreement(one, one) == (1.0, 0.0)
    assert agreement(np.zeros(9), np.zeros(9)) == (1.0, 0.0)


def test_expected_gain_fades_like_a_learning_curve():
    """Of a curve a - b m^-1/2 that gains a quarter of what it changes, the rounds to come by hand."""
    m = np.arange(1, 13) * 10.0
    accuracy = 0.9 - 0.4 * m**-0.5
    changed = np.diff(accuracy, prepend=0.3) / 0.25
    found = expected_gain(changed[:8])
    assert found.gain == pytest.approx(accuracy[8] - accuracy[7], rel=0.05)
    assert found.later == pytest.approx(accuracy[11] - accuracy[7], rel=0.05)
    assert expected_gain(changed[:2]) is None
    assert "foreseen from round 3" in outlook(None, 0.1, 20, Measure(500))


def test_the_range_of_the_next_round_by_hand():
    """0.1 (3/4)^1.5 = 0.065 changed: 1.6 points on average, 13 sqrt(0.065 + 1/500) = 3.4 points around them; among 60
    test images the square is twice that, 4.8; no accuracy is above 100 % nor below 0. A move twice as far as its reach
    widens it by half."""
    found = expected_gain([0.5, 0.2, 0.1])
    said = outlook(found, 0.1, 20, Measure(500))
    assert said.startswith("next round: -1.7 to +5.0 points of pool accuracy in 8 of 10 cases, for 20 labels")
    tested = outlook(found, 0.1, 20, Measure(500, "test", 60, 0.5))
    assert tested.startswith("next round: -3.1 to +6.4 points of test accuracy in 8 of 10 cases, for 20 labels")
    assert outlook(found, 0.1, 20, Measure(500, excess=2.0)).startswith("next round: -3.4 to +6.7 points")
    assert likely_range(found, Measure(500, excess=0.9)) == likely_range(found, Measure(500))
    assert likely_range(found, Measure(500, "test", 60, 0.99))[1] == pytest.approx(0.01)
    assert likely_range(found, Measure(500, "test", 60, 0.02))[0] == pytest.approx(-0.02)


def learning(seed, skew=0.0, fewest=1, n=1000, tested=0):
    """A learner whose truth is known: (accuracy before and after each round, share of predictions each changed).

    Class means from names that are somewhat wrong and from labels drawn by chance, in a world of normal classes. Sizes
    of classes fall as 1/k^skew; accuracy is that on the pool of `n`, or on so many `tested` images, as many of each.
    """
    draw = np.random.default_rng(seed)
    classes, dim = int(draw.integers(3, 11)), 24
    means = draw.normal(size=(classes, dim)) * draw.uniform(1.5, 4.5) / np.sqrt(dim)
    sizes = 1.0 / np.arange(1, classes + 1) ** skew
    truth = draw.choice(classes, size=n, p=sizes / sizes.sum())
    seen = means[truth] + draw.normal(size=(n, dim))
    asked = np.arange(tested) % classes
    shown = means[asked] + draw.normal(size=(tested, dim))
    named = means + draw.normal(size=means.shape) * draw.uniform(0.3, 1.2)
    order, each = draw.permutation(n), classes * int(draw.integers(fewest, 4))
    predictions, told = [], []
    for count in range(0, 10 * each, each):
        kept = order[:count]
        onehot = np.eye(classes)[truth[kept]]
        found = (2 * named + onehot.T @ seen[kept]) / (2 + onehot.sum(axis=0)[:, None])
        predictions.append((seen @ found.T - 0.5 * (found**2).sum(axis=1)).argmax(axis=1))
        told.append((shown @ found.T - 0.5 * (found**2).sum(axis=1)).argmax(axis=1))
    accuracy = [np.mean(found == asked) for found in told] if tested else [np.mean(p == truth) for p in predictions]
    return accuracy, [np.mean(one != other) for one, other in pairwise(predictions)]


def test_the_outlook_is_honest_where_the_truth_is_known():
    """On average it promises what comes; 0.3 of the last two rounds' mean promised most of a point too much."""
    gains, promised, before = [], [], []
    for seed in range(60):
        accuracy, changed = learning(seed)
        for done in range(3, 9):
            gains.append(accuracy[done + 1] - accuracy[done])
            promised.append(expected_gain(changed[:done]).gain)
            before.append(0.3 * np.mean(changed[done - 2 : done]) * (done / (done + 1)) ** 1.5)
    bias = 100 * (np.mean(promised) - np.mean(gains))
    assert abs(bias) < 0.5
    assert 100 * (np.mean(before) - np.mean(gains)) > 2 * abs(bias)


@pytest.mark.parametrize(("skew", "n", "tested"), [(0, 400, 40), (1, 400, 100), (1.5, 200, 60), (2, 400, 150)])
def test_the_range_holds_eight_of_ten_rounds_on_few_images_and_skewed_pools(skew, n, tested):
    held, narrow = [], []
    for seed in range(60):
        accuracy, changed = learning(seed, skew, n=n, tested=tested)
        for done in range(3, 9):
            found, gain = expected_gain(changed[:done]), accuracy[done + 1] - accuracy[done]
            measure = Measure(n, "test", tested, accuracy[done])
            further = excess(accuracy[1 : done + 1], changed[:done], measure)
            low, high = likely_range(found, replace(measure, excess=further))
            held.append(low - 1e-9 <= gain <= high + 1e-9)
            narrow.append(abs(gain - found.gain) <= 0.08 * found.share**0.5)  # the rule before: blind to few images
    assert 0.75 < np.mean(held) < 0.97
    assert np.mean(narrow) < 0.65


def test_enough_is_said_where_little_moves():
    settled = expected_gain([0.5, 0.1, 0.02, 0.01])
    assert settled.enough
    assert "enough: 4 more rounds" in outlook(settled, 0.01, 20, Measure(500))
    assert not expected_gain([0.5, 0.01, 0.06, 0.05]).enough
    seen = Evidence([], settled, None, 10)
    assert "together" in reason_to_stop(parse_stop("enough"), seen)
    assert not reason_to_stop(parse_stop("enough:0.2"), seen)


def test_stopping_rules():
    rows = [0.5, 0.99, 0.995, 0.999]
    assert "stable" in reason_to_stop(parse_stop("stable"), Evidence(rows, None, None, 10))
    assert not reason_to_stop(parse_stop("stable"), Evidence(rows[:3], None, None, 10))
    assert not reason_to_stop(parse_stop("stable:0.999"), Evidence(rows, None, None, 10))
    assert "at least 91" in reason_to_stop(parse_stop("gain:0.01,target:0.9"), Evidence(rows, None, 0.912, 10))
    assert not reason_to_stop(parse_stop("target:0.92"), Evidence(rows, None, 0.912, 10))
    assert parse_stop(None) == []
    for bad in ("sometime", "gain", "target:2", "stable:x", "enough:0"):
        with pytest.raises(ConfigError, match="--stop"):
            parse_stop(bad)


def test_the_gain_of_a_label_is_the_next_round_s_over_its_labels():
    evidence = Evidence([], expected_gain([0.5, 0.2, 0.1]), None, 20)
    each = 100 * 0.25 * 0.1 * 0.75**1.5 / 20
    assert reason_to_stop(parse_stop(f"gain:{each * 1.01}"), evidence)
    assert not reason_to_stop(parse_stop(f"gain:{each * 0.99}"), evidence)


def test_a_rule_of_one_s_own_is_one_class():
    with STOPS.temporary():

        @STOPS.register("evening", source="made up here")
        class Evening(Stop):
            """Enough for today."""

            default = 3.0

            def reason(self, evidence):
                return f"{len(evidence.agreements)} rounds" if len(evidence.agreements) >= self.threshold else ""

        rules = parse_stop("target:0.9,evening")
        assert reason_to_stop(rules, Evidence([0.1] * 2, None, None, 10)) == ""
        assert reason_to_stop(rules, Evidence([0.1] * 3, None, None, 10)) == "3 rounds"
        assert "evening" in STOPS.names()


def test_stop_set_is_fixed():
    keys = noise.sample_keys([f"s{i}" for i in range(5000)])
    found = stop_set(keys, 0)
    assert len(found) == 2000
    assert (np.diff(found) > 0).all()
    assert found.tolist() == stop_set(keys, 0).tolist() != stop_set(keys, 1).tolist()


@pytest.mark.parametrize(("n", "words"), [(0, "not calibrated"), (1, "by 1 label alone"), (19, "by 19 labels alone")])
def test_few_labels_are_said_to_be_few(n, words):
    rng = np.random.default_rng(n)
    found = calibrate(Unseen(rng.normal(size=(n, 3)), rng.integers(0, 3, n).astype(np.int32)))
    assert found.n == n
    assert words in (found.as_dict()["caution"] or "")


def test_of_enough_labels_nothing_need_be_said():
    rng = np.random.default_rng(0)
    assert calibrate(Unseen(rng.normal(size=(20, 3)), np.zeros(20, np.int32))).as_dict()["caution"] is None
