"""The student: heads behind the learner's protocol, and the guard against a worse one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from psp_ray.config.learn import LearnSettings
from psp_ray.core.errors import ConfigError
from psp_ray.core.records import HeldOut, LearnOutcome, LearnRequest, PseudoLabels, SoftLabels, TextState
from psp_ray.learn import gap as gap_module
from psp_ray.learn.evaluate import similarities
from psp_ray.learn.gap import label_gap
from psp_ray.learn.guard import is_worse
from psp_ray.learn.heads import one_hot
from psp_ray.learn.student import Student
from tests.helpers import ArrayPool
from tests.learn.heads.test_heads import World


class Round:
    """A pool whose first images of each class are bought; the last `n_classes` of them in this round."""

    def __init__(self, seed=0, per_class=3, sure=0.8, **world):
        self.world = w = World(seed, **world)
        self.pool = ArrayPool(w.x.astype(np.float16))
        self.labeled = np.concatenate([np.flatnonzero(w.labels == c)[:per_class] for c in range(w.n_classes)])
        self.labeled = self.labeled.reshape(w.n_classes, per_class).T.ravel()
        self.labels = w.labels[self.labeled].astype(np.int32)
        rest = np.setdiff1d(np.arange(len(w.x)), self.labeled)
        right = w.rng.random(len(w.x)) < sure
        guess = np.where(right, w.labels, w.rng.integers(0, w.n_classes, len(w.x))).astype(np.int32)
        half = np.full(len(rest), 0.5, np.float32)
        self.pseudo = PseudoLabels(rest, guess[rest], half, half)
        table = (0.6 * one_hot(guess, w.n_classes) + 0.4 / w.n_classes).astype(np.float32)
        self.soft = SoftLabels(np.arange(len(w.x)), table)
        m = len(self.labeled)
        self.held_out = tuple(HeldOut(np.arange(k, m, 3), table) for k in range(3))
        self.request = LearnRequest(
            1, self.labeled, self.labels, w.n_classes, self.pseudo, w.zero_shot, self.soft, self.held_out
        )

    def student(self, head="auto", **settings):
        return Student(self.pool, LearnSettings(head=head, **settings), self.world.zero_shot)


@pytest.mark.parametrize("head", ["auto", "gda", "linear", "residual"])
def test_gaps_are_those_of_the_final_classifier(head):
    game = Round()
    outcome = game.student(head).learn(game.request)
    new = game.labeled[-6:]
    assert outcome.gap_new == pytest.approx(label_gap(outcome.text, game.pool.rows(new), game.labels[-6:]), abs=1e-5)
    pseudo = label_gap(outcome.text, game.pool.rows(game.pseudo.positions), game.pseudo.labels)
    assert outcome.gap_pseudo == pytest.approx(pseudo, abs=1e-5)
    before = label_gap(game.world.zero_shot, game.pool.rows(new), game.labels[-6:])
    assert outcome.gap_new_before == pytest.approx(before, abs=1e-5)
    assert (outcome.gap_new >= 0).all()
    assert game.world.accuracy(outcome.text) > game.world.accuracy(game.world.zero_shot)
    assert 0 < outcome.train_loss < np.log(6)


def test_the_same_request_gives_the_same_bits_whatever_was_learned_before():
    game, other = Round(), Round(seed=3)
    student = game.student()
    first = student.learn(game.request)
    student.learn(other.request)
    again = student.learn(game.request)
    assert first.text.features.tobytes() == again.text.features.tobytes()


def test_a_bought_label_wins_over_its_posterior():
    game = Round()
    asked = game.student().fit_request(game.request)
    m = len(game.labeled)
    assert np.array_equal(asked.targets[:m], one_hot(game.labels, 6))
    assert asked.bought.sum() == m
    assert len(asked.targets) == len(game.world.x)  # none twice
    found = game.student().learn(game.request)
    wrong = game.soft.probabilities.copy()
    wrong[game.labeled] = 1 / 6
    again = game.student().learn(replace(game.request, soft=SoftLabels(game.soft.positions, wrong)))
    assert found.text.features.tobytes() == again.text.features.tobytes()


def test_a_fold_knows_a_held_image_by_its_posterior_alone():
    game = Round()
    asked = game.student(head_soft_weight=0.4).fit_request(game.request)
    fold, held = asked.folds[1], game.held_out[1]
    assert np.array_equal(fold.targets[held.rows], held.probabilities[game.labeled[held.rows]])
    assert fold.weights[held.rows] == pytest.approx(0.4)
    kept = np.setdiff1d(np.arange(len(game.labeled)), held.rows)
    assert np.array_equal(fold.targets[kept], asked.targets[kept])
    # Beside the posterior's images a held one is left out.
    some = np.setdiff1d(game.soft.positions, game.labeled[held.rows])
    cut = replace(
        game.request,
        soft=SoftLabels(some, game.soft.probabilities[some]),
        held_out=(HeldOut(held.rows, held.probabilities[some]),),
    )
    assert (game.student().fit_request(cut).folds[0].weights[held.rows] == 0).all()


def test_hard_pseudo_labels_count_by_their_confidence():
    game = Round()
    request = replace(game.request, soft=None, held_out=())
    asked = game.student(head_hard_weight=0.6).fit_request(request)
    assert asked.weights[len(game.labeled) :] == pytest.approx(0.3)
    outcome = game.student("linear").learn(request)
    assert game.world.accuracy(outcome.text) > game.world.accuracy(game.world.zero_shot)


def test_without_labels_pseudo_labels_or_a_posterior_there_is_nothing_to_learn():
    game = Round()
    none = np.zeros(0, np.int64)
    empty = LearnRequest(1, none, none.astype(np.int32), 0, PseudoLabels.empty(), game.world.zero_shot)
    with pytest.raises(ConfigError, match="nothing to learn from"):
        game.student().learn(empty)
    with pytest.raises(ConfigError, match="unknown head"):
        game.student("lienar")


def test_head_prompt_is_what_the_prompt_learner_made():
    game = Round()
    gaps = [np.zeros(1, np.float32)] * 4
    learned = LearnOutcome(game.world.zero_shot, np.ones((6, 2, 3), np.float32), *gaps, 0.5, 100, 1, "careful")
    assert game.student("prompt").learn(game.request, learned) is learned
    assert game.student("prompt").wants_prompts
    assert not game.student("auto").wants_prompts
    residual = game.student("residual").learn(game.request, learned)
    assert (residual.steps, residual.restarts, residual.warning) == (100, 1, "careful")
    assert np.array_equal(residual.contexts, learned.contexts)


def test_a_student_that_is_worse_on_unseen_labels_does_not_replace_the_teacher():
    # The teacher knows the classes; the posterior of the rest, in the folds too, is confidently wrong.
    game = Round(seed=1, n=400, n_classes=6, per_class=8, noise=0.0)
    wrong = one_hot((game.world.labels + 1) % 6, 6)
    soft = SoftLabels(game.soft.positions, wrong)
    held_out = tuple(HeldOut(held.rows, wrong) for held in game.held_out)
    request = replace(game.request, n_new=len(game.labeled), soft=soft, held_out=held_out)
    kept = game.student("gda").learn(request)
    assert kept.text is game.world.zero_shot
    assert "the old one is kept" in kept.warning
    assert kept.gap_new == pytest.approx(kept.gap_new_before)
    bold = game.student("gda", divergence_guard=False).learn(request)
    assert bold.warning == ""
    assert game.world.accuracy(bold.text) < game.world.accuracy(kept.text)
    assert game.student("gda").learn(replace(game.request, n_new=len(game.labeled))).warning == ""


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (0, 6), (0, 7), (3, 14), (3, 15), (20, 25), (2, 40)])
def test_worse_is_what_scipys_sign_test_calls_worse(won, lost):
    new = np.array([True] * won + [False] * lost + [True] * 5)
    old = np.array([False] * won + [True] * lost + [True] * 5)
    expected = won + lost > 0 and binomtest(won, won + lost, 0.5, alternative="less").pvalue < 0.01
    assert is_worse(new, old) == expected


def test_a_cooled_classifier_says_the_same_less_surely():
    rng = np.random.default_rng(0)
    text = TextState(rng.standard_normal((4, 6)).astype(np.float32), 20.0, rng.standard_normal(4).astype(np.float32))
    x = rng.standard_normal((9, 6)).astype(np.float32)
    cool = text.cooled(4.0)
    assert similarities(cool, x) == pytest.approx(similarities(text, x), abs=1e-5)
    assert cool.logit_scale == 5.0


def test_gaps_of_many_are_those_of_a_loop(monkeypatch):
    monkeypatch.setattr(gap_module, "BLOCK_SIZE", 16)
    world = World(3)
    cosines = world.x.astype(np.float64) @ world.zero_shot.features.T.astype(np.float64)
    expected = [max(row) - row[label] for row, label in zip(cosines, world.labels, strict=True)]
    text = replace(world.zero_shot, bias=None)
    np.testing.assert_allclose(label_gap(text, world.x, world.labels.astype(np.int32)), expected, atol=1e-5)
