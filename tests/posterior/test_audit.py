"""The audit stratum and its estimates: against scipy, hand cases, and simulations that know the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from psp_ray.core import noise
from psp_ray.core.answers import IGNORE, SKIP
from psp_ray.posterior.accuracy import (
    crossfit_estimate,
    estimate_share,
    limits,
    recent_estimate,
    round_estimate,
    share_of_none,
    telling,
)
from psp_ray.posterior.audit import Answers, audit_order, correct, planned_draws, stratum


def run(seed, answers, right, likes, rounds, k, fraction, every_right=None):
    """Rounds of a greedy strategy that takes what it `likes` best, and an audit; two classes.

    `right` (n,) says whose prediction is right in any round.
    """
    n = len(answers)
    order = audit_order(seed, noise.sample_keys([f"s{i}" for i in range(n)]))
    left, asked, asked_in, by_chance = np.arange(n), [], [], []
    for number in range(1, rounds + 1):
        drawn = left[np.argsort(order[left])[: planned_draws(fraction, k, number)]]
        rest = np.setdiff1d(left, drawn)
        new = np.concatenate([drawn, rest[np.argsort(-likes[rest])][: k - len(drawn)]])
        asked.append(new)
        asked_in.append(np.full(k, number, np.int32))
        by_chance.append(np.isin(new, drawn))
        left = np.setdiff1d(left, new)
    asked = np.concatenate(asked)
    guess = np.where(right[asked], np.maximum(answers[asked], 0), 1 - np.maximum(answers[asked], 0))
    return Answers(
        asked,
        answers[asked].astype(np.int32),
        np.concatenate(asked_in),
        np.concatenate(by_chance),
        order[asked],
        np.eye(2, dtype=np.float32)[guess],
    )


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.8, 0.95]))
def test_limits_are_clopper_and_pearsons(right, wrong, level):
    if right + wrong:
        found = binomtest(right, right + wrong).proportion_ci(level, method="exact")
        assert limits(right, right + wrong, level) == pytest.approx((found.low, found.high), abs=1e-9)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 10))
def test_a_skipped_draw_widens_whatever_its_answer_would_have_been(right, wrong, unknown):
    found = estimate_share(right, wrong, unknown, 5)
    if right + wrong == 0:
        assert found is None
        return
    draws = right + wrong + unknown
    assert found.draws == draws
    assert right / draws - 1e-12 <= found.value <= (right + unknown) / draws + 1e-12
    assert found.value <= right / (right + wrong)  # no higher than as if the skipped were like the others
    for hits in range(right, right + unknown + 1):
        low, high = limits(hits, draws)
        assert found.low <= low + 1e-12
        assert found.high >= high - 1e-12


@settings(deadline=None)
@given(st.floats(0.0, 0.99), st.integers(1, 40))
def test_planned_draws_add_up(fraction, n_query):
    drawn = [planned_draws(fraction, n_query, number) for number in range(1, 30)]
    assert all(0 <= count <= n_query for count in drawn)
    assert np.abs(np.cumsum(drawn) - fraction * n_query * np.arange(1, 30)).max() <= 0.5 + 1e-9


def test_the_stratum_is_the_beginning_of_the_sequence():
    draw = np.random.default_rng(0)
    answers = draw.integers(0, 2, 120)
    found = run(3, answers, np.ones(120, bool), draw.random(120), 6, 10, 0.2)
    order = audit_order(3, noise.sample_keys([f"s{i}" for i in range(120)]))
    for until in (1, 3, 6):
        inside = found.asked[stratum(found, until)]
        first = np.argsort(order)[: len(inside)]
        np.testing.assert_array_equal(np.sort(inside), np.sort(first))
        assert (found.by_chance & (found.asked_in <= until) <= stratum(found, until)).all()
    assert stratum(found).sum() > 12, "some that the strategy chose lie among them"


def test_initial_labels_and_strategies_without_an_audit_have_no_stratum():
    draw = np.random.default_rng(0)
    found = run(0, draw.integers(0, 2, 60), np.ones(60, bool), draw.random(60), 3, 10, 0.0)
    assert not stratum(found).any()
    assert crossfit_estimate(found, found.logits, 3) is None
    assert round_estimate(found, 2) is None
    given_before = Answers(found.asked, found.answers, found.asked_in * 0, np.ones(30, bool), found.order, found.logits)
    assert not stratum(given_before).any()


@pytest.mark.parametrize("likes", ["easy", "hard", "nothing"])
@pytest.mark.parametrize(("n", "fraction", "accuracy"), [(150, 0.1, 0.8), (1000, 0.1, 0.5), (1000, 0.3, 0.9)])
def test_limits_cover_the_truth_whatever_the_strategy_likes_and_whoever_skips(n, fraction, accuracy, likes):
    """A third of what is wrong is skipped: missing, and not by chance. Shown is what was planned to be shown."""
    draw = np.random.default_rng(n)
    shown = covered = 0
    values = []
    for seed in range(150):
        truth, right = draw.integers(0, 2, n), draw.random(n) < accuracy
        answers = np.where(~right & (draw.random(n) < 0.3), SKIP, truth)
        answers[draw.random(n) < 0.05] = IGNORE
        bent = {"easy": 1.0, "hard": -1.0, "nothing": 0.0}[likes] * right + 0.3 * draw.random(n)
        found = run(seed, answers, right, bent, 8, 10, fraction)
        estimate = crossfit_estimate(found, found.logits, 8)
        assert telling(estimate), "8 or 24 draws were planned"
        shown += 1
        wanted = right[answers != IGNORE].mean()
        covered += estimate.low <= wanted <= estimate.high
        values.append(estimate.value - wanted)
    assert covered / shown >= 0.94
    # Skipped images are all wrong here; half of an eleventh of the others' accuracy is what is thought of them.
    assert -0.04 < np.mean(values) < 0.05


def test_the_pooled_stratum_is_a_simple_random_sample():
    """Small pools, most of it asked: the plain proportion is unbiased all the same, whatever the strategy takes."""
    draw = np.random.default_rng(0)
    right = draw.random(60) < 0.6
    errors = {True: [], False: []}
    for seed in range(600):
        found = run(seed, np.zeros(60, int), right, right + 0.1 * draw.random(60), 4, 8, 0.25)
        for pooled in errors:
            rows = stratum(found) if pooled else found.by_chance
            errors[pooled].append(correct(found.logits, found.answers)[rows].mean() - right.mean())
    assert abs(np.mean(errors[True])) < 4 * np.std(errors[True]) / np.sqrt(600) + 0.01
    assert np.mean(errors[False]) < -0.05, "chance draws alone only see what the strategy left"


def test_estimates_by_hand():
    answers = Answers(
        asked=np.arange(8),
        answers=np.array([0, 1, SKIP, 1, 0, 0, IGNORE, 1], np.int32),
        asked_in=np.array([0, 1, 1, 1, 2, 2, 2, 3], np.int32),
        by_chance=np.array([0, 1, 1, 0, 1, 0, 1, 1], bool),
        order=np.array([0, 1, 2, 9, 3, 2, 5, 8], np.uint64),
        logits=np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 1, 0, 0, 1]],
    )
    assert stratum(answers, 1).tolist() == [False, True, True, False, False, False, False, False]
    assert stratum(answers, 2).tolist() == [False, True, True, False, True, True, True, False]
    first = round_estimate(answers, 1)
    assert (first.value, first.draws, first.planned) == (pytest.approx(0.75), 2, 2)
    # Round 2: the refits have 1, 4 and 5 right, 2 was skipped, 6 is no image of a class; 7 judges from round 3.
    scores = np.eye(2)[[0, 1, 0, 0, 0, 0, 0]]
    found = crossfit_estimate(answers, scores, 2)
    assert (found.draws, found.planned) == (5, 5)
    assert found.value == pytest.approx((4 + 0.5) / 5)
    assert (found.low, found.high) == pytest.approx((limits(4, 5)[0], 1.0))
    assert telling(found)
    # A skip that was corrected after the refits has no score: unknown as before.
    corrected = Answers(**{**vars(answers), "answers": np.array([0, 1, 1, 1, 0, 0, IGNORE, 1], np.int32)})
    scores[2] = np.nan
    assert crossfit_estimate(corrected, scores, 2) == found
    recent = recent_estimate(answers, 3, 2)
    assert (recent.value, recent.draws) == (0.5, 2)
    assert share_of_none(answers).value == pytest.approx((1 + 1 * 0.2 / 2) / 6)


def test_the_plan_decides_what_is_shown():
    assert telling(estimate_share(1, 0, 0, 5))
    assert not telling(estimate_share(40, 2, 0, 4))
    assert not telling(None)
