"""A mixture of heads whose weights come from labels that the judged parts have not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psp_ray.config.kinds import HEADS
from psp_ray.config.learn import LearnSettings
from psp_ray.core.records import Float64Array, Int64Array, TextState
from psp_ray.learn.heads._base import TEMPERATURE_SPREAD, FitRequest, affine_of, as_sure, as_sure_as_told, text_of
from psp_ray.learn.heads.gda import natural
from psp_ray.learn.heads.leaning import leaning
from psp_ray.learn.heads.stacking import stacked
from psp_ray.learn.solvers import Affine, cross_entropy, fit_scale

SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""Weights of zero-shot's logits beside the discriminant's that are compared."""
LEAST_SHARE = 0.05
"""The prior's center is never below: a little of the teacher does no harm, however weak it is."""
SPREAD = 1.0
"""Standard deviation of the logarithm of the weight (0 counts as half of `LEAST_SHARE`) before any held-out label."""
FIRST = 5.0
"""Labels that the pseudo-labels' word on how often zero-shot is right counts for."""
OPINIONS = 0.5
"""Pseudo-labels must weigh this much of what labels do, or the discriminant has nothing to stand on."""


@dataclass(frozen=True)
class Evidence:
    """Logits of both parts for labels that neither has seen: (h, C) each, and the labels (h,)."""

    learned: Float64Array
    teacher: Float64Array
    labels: Int64Array


@HEADS.register("auto", source="ours; stacking after Wolpert, Neural Networks 1992")
def auto(request: FitRequest, settings: LearnSettings) -> TextState:
    """The discriminant, whose classes without a label lean on zero-shot, plus a share of zero-shot for all of them.

    The share has the largest posterior given the held-out labels.

    Without pseudo-labels there is little spread within the classes to learn a covariance from: then the discriminant
    stands beside a residual, as held-out labels say (`stacking`).
    """
    if request.weights[~request.bought].sum() < OPINIONS * request.weights[request.bought].sum():
        return stacked(request, settings)
    learned = learned_of(request, settings)
    teacher = teacher_of(request)
    share = choose_share(evidence(request, settings), expected_share(request))
    return text_of(as_sure(learned.plus(teacher.scaled(share)), request))


def learned_of(request: FitRequest, settings: LearnSettings) -> Affine:
    """The discriminant that leans on zero-shot where it has no label, as sure as the targets are."""
    name = (learned_of, settings.head_shrinkage)
    return request.once(name, lambda: as_sure(leaning(natural(request, settings), request), request))


def teacher_of(request: FitRequest) -> Affine:
    """Zero-shot's logits, as sure as the bought labels say, which it has never seen."""
    return request.once(teacher_of, lambda: as_sure_as_told(request.zero_shot, request))


def evidence(request: FitRequest, settings: LearnSettings) -> Evidence:
    """What the parts say about the held labels of each fold, fitted without them.

    Held labels whose class has no other label are left out: without them the class is one that nobody was ever asked
    about, which says nothing about the classifier that has them.
    """
    learned, teacher, labels = [], [], []
    for fold in request.folds:
        left = request.without(fold)
        truth = request.targets[fold.held].argmax(axis=1)
        judged = np.isin(truth, left.labels)
        if not judged.any():
            continue
        rows = request.features[fold.held[judged]]
        learned.append(learned_of(left, settings).logits(rows))
        teacher.append(teacher_of(left).logits(rows))
        labels.append(truth[judged])
    if not labels:
        none = np.zeros((0, request.n_classes))
        return Evidence(none, none, np.zeros(0, np.int64))
    return Evidence(np.concatenate(learned), np.concatenate(teacher), np.concatenate(labels))


def expected_share(request: FitRequest) -> float:
    """The weight that zero-shot's share of hits h makes likely: `2 h^4`, at least `LEAST_SHARE`.

    h is told by the bought labels, which came after zero-shot was written down, and by the pseudo-labels, which count
    for `FIRST` labels: they say on what share of the pool zero-shot would be right if they were, so that one or two
    bought labels don't decide alone. The steep rule (ours, from 13 pools and two ways to choose labels) leaves a
    teacher of 30 % out and lets one of 90 % speak as loud as the discriminant.
    """
    zero_shot, bought, weights = affine_of(request.zero_shot), request.bought, request.weights
    said = zero_shot.logits(request.features).argmax(axis=1)
    hits = float((said[bought] == request.labels).sum())
    free = ~bought & (weights > 0)
    if not free.any():
        rate = (hits + 0.5) / (bought.sum() + 1.0)
    else:
        agreed = float(weights[free] @ request.targets[free, said[free]] / weights[free].sum())
        rate = (hits + FIRST * agreed) / (bought.sum() + FIRST)
    return max(2.0 * float(rate) ** 4, LEAST_SHARE)


def choose_share(found: Evidence, expected: float) -> float:
    """The weight in `SHARES` of largest posterior: likelihood at the best scale, log-normal prior around `expected`."""
    targets = np.zeros_like(found.learned)
    targets[np.arange(len(found.labels)), found.labels] = 1.0
    ones = np.ones(len(found.labels))

    def loss(share: float) -> float:
        prior = 0.5 * (np.log(max(share, LEAST_SHARE / 2) / expected) / SPREAD) ** 2
        if not len(found.labels):
            return float(prior)
        logits = found.learned + share * found.teacher
        scale = fit_scale(logits, targets, ones, TEMPERATURE_SPREAD)
        return float(prior + cross_entropy(scale * logits, targets).sum())

    return min(SHARES, key=loss)
