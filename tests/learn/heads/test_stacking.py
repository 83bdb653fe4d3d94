"""Labels alone: how much the discriminant says beside the residual is decided by labels that neither has seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from psp_ray.learn.heads import FitRequest, affine_of, fit, one_hot
from psp_ray.learn.heads.stacking import PARTS, judge, mixture, stacked
from tests.learn.heads.test_heads import SETTINGS, World, predict_proba


class Skewed(World):
    """Classes that differ little beside what all share: a covariance knows it, a penalty on vectors doesn't."""

    def __init__(self, seed: int, noise: float = 8.0):
        super().__init__(seed, noise=noise)
        rng = np.random.default_rng(seed)
        n, dim = self.x.shape
        spread = 1.0 / np.arange(1, dim + 1)
        centers = 0.8 * spread * rng.standard_normal((6, dim))
        rows = 6.0 + centers[self.labels] + 0.5 * spread * rng.standard_normal((n, dim))
        self.x = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def labels_alone(world: World, per_class: int) -> FitRequest:
    request = world.request(per_class=per_class)
    return replace(request.only(np.flatnonzero(request.bought)), folds=())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_many_labels_let_the_covariance_speak(seed):
    world = Skewed(seed)
    request = labels_alone(world, 12)
    parts = {name: world.accuracy(fit(name, request, SETTINGS)) for name in ("residual", "gda")}
    assert parts["gda"] > parts["residual"] + 0.05
    assert world.accuracy(fit("auto", request, SETTINGS)) > max(parts.values()) - 0.03


@pytest.mark.parametrize("per_class", [2, 4])
def test_a_strong_teacher_keeps_the_residual(per_class):
    world = World(5, noise=0.0, spread=1.5, scale=12.0)
    request = labels_alone(world, per_class)
    parts = {name: world.accuracy(fit(name, request, SETTINGS)) for name in ("residual", "gda")}
    assert world.accuracy(stacked(request, SETTINGS)) > max(parts.values()) - 0.03


def test_a_label_a_class_leaves_the_residual_to_the_bit():
    request = labels_alone(World(3), 1)
    one, other = mixture(request, SETTINGS), affine_of(fit("residual", request, SETTINGS))
    assert one.vectors.tobytes() == other.vectors.tobytes()
    assert one.bias.tobytes() == other.bias.tobytes()


def test_whoever_judges_has_not_seen_the_label_nor_what_was_learned_from_it():
    world = World(2)
    request = replace(world.request(per_class=4), folds=())
    found = judge(request, SETTINGS)
    assert found is not None
    assert len(found.labels) == 24
    others = ~request.bought
    lies = request.targets.copy()
    lies[others] = np.roll(lies[others], 1, axis=1)  # pseudo-labels may come from any bought label
    again = judge(replace(request, targets=lies), SETTINGS)
    assert again is not None
    assert np.array_equal(again.residual, found.residual)
    assert np.array_equal(again.discriminant, found.discriminant)
    rows = np.flatnonzero(request.bought)
    first = [rows[request.labels == label][0] for label in range(6)]  # those of the first part
    told = request.targets.copy()
    told[first] = np.roll(told[first], 1, axis=1)
    part = judge(replace(request, targets=told), SETTINGS)
    assert part is not None
    assert not np.array_equal(part.residual[6:], found.residual[6:])


def test_its_likelihood_on_fresh_images_is_no_worse_than_a_logistic_regression():
    world = Skewed(4)
    request = labels_alone(world, 12)
    truth = np.eye(6)[world.labels]
    mine = -(truth * np.log(predict_proba(stacked(request, SETTINGS), world.x) + 1e-12)).sum(axis=1).mean()
    plain = LogisticRegression(max_iter=5000).fit(request.features, request.labels)
    other = -(truth * np.log(plain.predict_proba(world.x) + 1e-12)).sum(axis=1).mean()
    assert mine < other


def test_parts_hold_out_every_label_whose_class_has_others_once():
    world = World(1)
    request = world.request(per_class=PARTS + 2)
    rows = np.flatnonzero(request.bought)
    few = request.only(np.concatenate([rows[request.labels != 0], rows[request.labels == 0][:1]]))
    found = judge(few, SETTINGS)
    assert found is not None
    assert np.bincount(found.labels, minlength=6).tolist() == [0] + [PARTS + 2] * 5
    assert one_hot(found.labels, 6).shape == found.residual.shape
