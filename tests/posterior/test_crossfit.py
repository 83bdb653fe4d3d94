"""Cross-fitting leaves no trace of what it leaves out."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from psp_ray.posterior.accuracy import crossfit_estimate
from psp_ray.posterior.audit import Answers, stratum
from psp_ray.posterior.crossfit import crossfit, fold_count, fold_of


def world(seed=0, m=60, chance=0.5, n_classes=3):
    draw = np.random.default_rng(seed)
    return Answers(
        np.arange(m),
        draw.integers(-1, n_classes, m).astype(np.int32),
        np.repeat(np.arange(1, 4), m // 3).astype(np.int32),
        draw.random(m) < chance,
        draw.integers(0, 2**63, m).astype(np.uint64),
        draw.normal(size=(m, n_classes)).astype(np.float32),
    )


@pytest.mark.parametrize(
    ("share", "folds", "count"), [(0.1, 4, 1), (0.25, 4, 1), (0.26, 4, 2), (1.0, 4, 4), (0.3, 10, 3), (0.5, 1, 1)]
)
def test_folds_leave_out_no_more_than_they_may(share, folds, count):
    assert fold_count(share, folds) == count
    assert share / count <= 1 / folds + 1e-9


def test_every_judged_label_is_left_out_once_and_folds_are_kept():
    answers = world()
    fold = fold_of(answers, 3)
    assert ((fold >= 0) == stratum(answers)).all()
    asked = []

    def refit(number, kept, rows):
        assert not kept[rows].any()
        assert (answers.answers[kept] >= 0).all()
        np.testing.assert_array_equal(np.flatnonzero((fold == number) & (answers.answers >= 0)), rows)
        asked.extend(rows)
        return np.zeros((len(rows), 3))

    logits = crossfit(answers, 3, refit)
    assert sorted(asked) == np.flatnonzero(stratum(answers) & (answers.answers >= 0)).tolist()
    assert np.isfinite(logits).all(axis=1).tolist() == [row in asked for row in range(60)]
    earlier = answers.asked_in <= 2
    before = Answers(*(value[earlier] for value in vars(answers).values()))
    old = fold_of(before, 3)
    assert (old[old >= 0] == fold[earlier][old >= 0]).all()


def test_refits_that_are_not_logits_are_refused():
    with pytest.raises(ValueError, match="fold 0: logits of shape"):
        crossfit(world(), 2, lambda fold, kept, rows: np.zeros((len(rows), 2)))
    with pytest.raises(ValueError, match="held-out"):
        crossfit(world(), 2, lambda fold, kept, rows: np.full((len(rows), 3), np.nan))


class Twins:
    """Labels by coin; every labeled image has an unlabeled twin, and a student is one nearest neighbor to both."""

    def __init__(self, seed, m=120):
        draw = np.random.default_rng(seed)
        spots = np.repeat(draw.normal(size=(m, 2)), 2, axis=0)
        spots += 0.01 * draw.normal(size=spots.shape)
        self.labeled, self.twins = spots[::2], spots[1::2]
        self.answers = Answers(
            np.arange(m),
            draw.integers(0, 2, m).astype(np.int32),
            np.ones(m, np.int32),
            np.ones(m, bool),
            draw.integers(0, 2**63, m).astype(np.uint64),
            np.zeros((m, 2), np.float32),
        )

    def spread(self, kept):
        near = KNeighborsClassifier(1).fit(self.labeled[kept], self.answers.answers[kept])
        return near.predict(self.twins)

    def spread_of_all(self, kept):
        return self.spread(np.arange(len(self.labeled)))

    def estimate(self, pseudo):
        """`pseudo(kept)`: the labels of the twins in a fold that keeps some labels."""

        def refit(fold, kept, rows):
            both = np.concatenate([self.labeled[kept], self.twins])
            labels = np.concatenate([self.answers.answers[kept], pseudo(kept)])
            student = KNeighborsClassifier(1).fit(both, labels)
            return np.log(student.predict_proba(self.labeled[rows]) + 1e-9)

        return crossfit_estimate(self.answers, crossfit(self.answers, 4, refit), 1).value


def test_pure_noise_is_not_learned():
    """Cross-fitting that spreads the kept labels anew finds chance; one that keeps the spread labels finds the leak."""
    worlds = [Twins(seed) for seed in range(40)]
    honest = [world.estimate(world.spread) for world in worlds]
    leaky = [world.estimate(world.spread_of_all) for world in worlds]
    assert np.mean(honest) == pytest.approx(0.5, abs=4 * np.std(honest) / np.sqrt(40))
    assert np.mean(leaky) > 0.95
