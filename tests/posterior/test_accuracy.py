"""Estimates from draws: coverage by simulation with the real draw, pooled rounds, calibration, stopping criteria."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score, log_loss

from psp_ray.core.errors import ConfigError
from psp_ray.labels import IGNORE, SKIP
from psp_ray.policy import sampling
from psp_ray.posterior.accuracy import (
    Answers,
    folds,
    inclusion,
    pooled_estimate,
    recent_estimate,
    round_estimates,
    share_of_none,
)
from psp_ray.posterior.calibration import calibrate, fit_temperature, reliability
from psp_ray.posterior.estimate import Estimate
from psp_ray.run.stopping import agreement, expected_gain, outlook, parse_stop, reason_to_stop, stop_set


def one_run(draw, truth, right, score, rounds, k, audit=0.1):
    """Rounds of Gumbel-top-k draws from a softmax policy over what is left; two classes, `right` says who is right."""
    n = len(truth)
    left = np.arange(n)
    asked, log_prob, asked_in, next_keys = [], [], [], {}
    for number in range(1, rounds + 1):
        a = np.exp(score[left] - score[left].max())
        log_a = np.log((1 - audit) * a / a.sum() + audit / len(left))
        positions, logs, key = sampling.draw([(left, log_a, draw.gumbel(size=len(left)), left.astype(np.uint64))], k)
        asked.append(positions)
        log_prob.append(logs)
        asked_in.append(np.full(k, number, np.int32))
        next_keys[number] = key
        left = np.setdiff1d(left, positions)
    positions = np.concatenate(asked)
    guess = np.where(right[positions], truth[positions], 1 - np.maximum(truth[positions], 0))
    cosines = np.eye(2, dtype=np.float32)[guess]
    return Answers(
        positions,
        truth[positions].astype(np.int32),
        np.concatenate(log_prob),
        np.concatenate(asked_in),
        cosines,
        next_keys,
    )


@pytest.mark.parametrize(("rounds", "k", "peak"), [(1, 40, 1.0), (5, 12, 1.0), (8, 10, -1.5)])
def test_intervals_of_pooled_rounds_cover_the_truth(rounds, k, peak):
    """Images of no class and skipped ones are in the pool too; the accuracy meant is that on images of a class."""
    draw = np.random.default_rng(rounds)
    n = 800
    truth = draw.integers(0, 2, n)
    truth[draw.random(n) < 0.1] = IGNORE
    right = draw.random(n) < 0.75
    score = peak * (0.5 * draw.normal(size=n) - right)
    wanted = right[truth >= 0].mean()
    skipped = draw.random(n) < 0.05
    answers = np.where(skipped, SKIP, truth)
    found = []
    for _ in range(600):
        audit = one_run(draw, answers, right, score, rounds, k)
        found.append(pooled_estimate(audit, audit.cosines, n))
    covered = np.mean([e.low <= wanted <= e.high for e in found])
    assert 0.92 <= covered <= 0.99, covered
    assert abs(np.mean([e.value for e in found]) - wanted) < 0.03
    assert np.mean([e.high - e.low for e in found]) < 0.45


@pytest.mark.parametrize("audit", [0.03, 0.2])
@pytest.mark.parametrize(("rounds", "k"), [(1, 10), (8, 10), (4, 60)])
def test_a_policy_that_is_nearly_sure_of_its_query_set_does_not_vouch_for_the_pool(rounds, k, audit):
    """Anchors far above the rest, and harder than it: often nothing else is drawn, with weights all alike."""
    draw = np.random.default_rng(7)
    n = 1000
    truth = draw.integers(0, 2, n)
    score = np.zeros(n)
    anchors = draw.permutation(n)[: 2 * rounds * k]
    score[anchors] = 9.0 + draw.random(len(anchors))
    right = draw.random(n) < np.where(score > 0, 0.4, 0.8)
    found = []
    for _ in range(300):
        answers = one_run(draw, truth, right, score, rounds, k, audit)
        found.append(pooled_estimate(answers, answers.cosines, n))
    covered = np.mean([e.low <= right.mean() <= e.high for e in found])
    assert covered >= 0.92, covered
    # As many draws as come from the uniform share, and not the size of the query set, carry the estimate.
    assert np.mean([e.n_effective for e in found]) < 3 + 3 * audit * rounds * k
    if audit * rounds * k >= 40:
        assert np.mean([e.high - e.low for e in found]) < 0.5


def test_round_estimates_are_those_of_each_round_alone():
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, 300)
    right = draw.random(300) < 0.7
    audit = one_run(draw, truth, right, np.zeros(300), 3, 20)
    for number, estimate in round_estimates(audit, 300).items():
        rows = audit.asked_in == number
        # A uniform policy: nearly a plain mean.
        assert estimate.value == pytest.approx(right[audit.asked[rows]].mean(), abs=1e-6)
        assert estimate.n_effective == pytest.approx(20, abs=1e-6)
    # 60 but for each round's threshold, which is drawn.
    assert recent_estimate(audit, 300, 3).n_effective == pytest.approx(60, rel=0.05)
    assert recent_estimate(audit, 300, 1).value == pytest.approx(round_estimates(audit, 300)[3].value)


def test_unknown_probabilities_give_no_estimate():
    draw = np.random.default_rng(0)
    audit = one_run(draw, draw.integers(0, 2, 100), np.ones(100, bool), np.zeros(100), 2, 10)
    blind = Answers(audit.asked, audit.answers, np.full(20, np.nan), audit.asked_in, audit.cosines, audit.next_keys)
    assert round_estimates(blind, 100) == {1: None, 2: None}
    assert pooled_estimate(blind, blind.cosines, 100) is None
    # Some of a round drawn by chance, the others chosen: only the former speak.
    log_prob = np.where(np.arange(20) % 2 == 0, audit.log_prob, np.nan)
    mixed = Answers(audit.asked, audit.answers, log_prob, audit.asked_in, audit.cosines, audit.next_keys)
    assert np.isfinite(inclusion(mixed, 100)).sum() == 10


def test_the_whole_pool_asked_tells_all():
    draw = np.random.default_rng(1)
    truth = draw.integers(0, 2, 30)
    right = draw.random(30) < 0.6
    audit = one_run(draw, truth, right, np.zeros(30), 1, 30)
    estimate = round_estimates(audit, 30)[1]
    assert estimate.value == estimate.low == estimate.high == pytest.approx(right.mean())
    assert share_of_none(audit, 30).value == 0.0


def test_folds_hold_every_label_once():
    draw = np.random.default_rng(2)
    truth = np.where(draw.random(60) < 0.2, SKIP, draw.integers(0, 2, 60))
    audit = one_run(draw, truth, np.ones(60, bool), np.zeros(60), 3, 7)
    parts = folds(audit, 4)
    assert sorted(np.concatenate(parts)) == np.flatnonzero(audit.answers >= 0).tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert folds(audit, 1) == []


# ---- calibration -----------------------------------------------------------------------------------------------------


def test_temperature_of_a_world_whose_temperature_is_known():
    draw = np.random.default_rng(0)
    logits = 3.0 * draw.normal(size=(4000, 5))
    chances = softmax(logits, axis=1)
    labels = np.array([draw.choice(5, p=p) for p in chances], np.int32)
    found = calibrate(2.5 * logits, labels, np.ones(4000))
    assert found.temperature == pytest.approx(2.5, rel=0.05)
    assert found.ece_after < 0.03 < found.ece_before
    grid = np.exp(np.linspace(np.log(1.5), np.log(4.0), 400))
    best = grid[np.argmin([log_loss(labels, softmax(2.5 * logits / t, axis=1)) for t in grid])]
    assert found.temperature == pytest.approx(best, rel=0.02), "the prior is weak"


def test_few_labels_change_little():
    logits = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    assert 0.4 < fit_temperature(logits, np.array([0, 0, 1]), np.ones(3)) < 1
    assert fit_temperature(logits, np.array([0, 0, 0]), np.zeros(3)) == 1.0
    assert calibrate(np.zeros((0, 2)), np.zeros(0, np.int32), np.zeros(0)).n == 0


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


def test_expected_gain_of_a_known_curve():
    m = np.array([10, 20, 30, 40, 60])
    value = 0.9 - 0.4 * (m / 10.0) ** -0.7
    estimates = [Estimate(v, v - 0.01, v + 0.01, 900.0) for v in value]
    found = expected_gain([*m, 80], [*estimates, None], 20)
    true = 0.4 * (8.0**-0.7 - 10.0**-0.7)
    assert found.gain == pytest.approx(true, abs=0.01)
    assert found.now == pytest.approx(0.9 - 0.4 * 8.0**-0.7, abs=0.02)
    assert expected_gain(m[:2], estimates[:2], 10) is None
    assert expected_gain(m, [replace(e, n_effective=4.0) for e in estimates], 10) is None
    assert "about +" in outlook(found, 0.1, 20)
    assert "too few" in outlook(None, 0.1, 20)


def test_criteria():
    rows = [0.5, 0.99, 0.995, 0.999]
    assert "stable" in reason_to_stop(parse_stop("stable"), rows, None, None, 10)
    assert not reason_to_stop(parse_stop("stable"), rows[:3], None, None, 10)
    assert not reason_to_stop(parse_stop("stable:0.999"), rows, None, None, 10)
    assert "at least 91" in reason_to_stop(parse_stop("gain:0.01,target:0.9"), rows, None, 0.912, 10)
    assert not reason_to_stop(parse_stop("target:0.92"), rows, None, 0.912, 10)
    assert parse_stop(None) == []
    for bad in ("sometime", "gain", "target:2", "stable:x"):
        with pytest.raises(ConfigError, match="--stop"):
            parse_stop(bad)


def test_stop_set_is_fixed():
    names = [f"s{i}" for i in range(5000)]
    found = stop_set(names, 0)
    assert len(found) == 2000
    assert (np.diff(found) > 0).all()
    assert found.tolist() == stop_set(names, 0).tolist() != stop_set(names, 1).tolist()
