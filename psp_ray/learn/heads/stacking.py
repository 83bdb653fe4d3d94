"""Two classifiers of labels alone, mixed as labels that neither has seen say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from psp_ray.config.learn import LearnSettings
from psp_ray.core.records import Float64Array, Int64Array, TextState
from psp_ray.learn.heads._base import TEMPERATURE_SPREAD, FitRequest, affine_of, text_of
from psp_ray.learn.heads.gda import natural
from psp_ray.learn.heads.leaning import evened
from psp_ray.learn.heads.residual import residual
from psp_ray.learn.solvers import Affine, cross_entropy, fit_scale

SHARES = tuple(float(share) for share in np.linspace(0.0, 1.0, 11))
"""Shares of the discriminant that are compared; the first of equals wins."""
PARTS = 5
"""Parts into which labels are cut; each is held out once."""
ENOUGH = 1000
"""Held-out labels beyond which no further part is held out."""
SPREAD = 1.0
"""Standard deviation of the logarithm of a part's scale, so that labels without a mistake leave it finite."""


@dataclass(frozen=True)
class Judged:
    """Logits (h, C) of both for labels (h,) that they have not seen."""

    residual: Float64Array
    discriminant: Float64Array
    labels: Int64Array


def stacked(request: FitRequest, settings: LearnSettings) -> TextState:
    """A residual on zero-shot beside a discriminant with labels' own covariance, after Wolpert (Neural Networks 1992).

    The residual leads with a label a class or a strong teacher, the discriminant with skewed or many labels, and by how
    much depends on the data: the discriminant's share has the largest likelihood for labels that were held out. Without
    any (no class has two labels) it is the residual. Classes of few labels lean on zero-shot (`evened`).
    """
    return text_of(evened(mixture(request, settings), request))


def mixture(request: FitRequest, settings: LearnSettings) -> Affine:
    """The same before any class leans on zero-shot."""
    first, judged = affine_of(residual(request, settings)), judge(request, settings)
    if judged is None:
        return first
    second = natural(request, settings)
    targets = np.zeros_like(judged.residual)
    targets[np.arange(len(judged.labels)), judged.labels] = 1.0
    ones = np.ones(len(judged.labels))
    level = float(judged.residual.std() / max(judged.discriminant.std(), 1e-12))
    own = fit_scale(judged.residual, targets, ones, SPREAD)
    other = level * fit_scale(level * judged.discriminant, targets, ones, SPREAD) / own

    def mixed(share: float) -> Float64Array:
        return (1.0 - share) * judged.residual + share * other * judged.discriminant

    def loss(share: float) -> float:
        logits = mixed(share)
        return float(cross_entropy(fit_scale(logits, targets, ones, SPREAD) * logits, targets).sum())

    share = min(SHARES, key=loss)
    scale = fit_scale(mixed(share), targets, ones, TEMPERATURE_SPREAD)
    return first.scaled(1.0 - share).plus(second.scaled(share * other)).scaled(scale)


def judge(request: FitRequest, settings: LearnSettings) -> Judged | None:
    """What both say of held-out labels whose class has others; None where there are none."""
    found: list[tuple[Float64Array, Float64Array, Int64Array]] = []
    n = 0
    for left, held in _parts(request):
        truth = request.targets[held].argmax(axis=1)
        known = np.isin(truth, left.labels)
        if not known.any():
            continue
        rows = request.features[held[known]]
        first, second = affine_of(residual(left, settings)), natural(left, settings)
        found.append((first.logits(rows), second.logits(rows), truth[known]))
        n += int(known.sum())
        if n >= ENOUGH:
            break
    return Judged(*(np.concatenate(part) for part in zip(*found, strict=True))) if found else None


def _parts(request: FitRequest) -> Iterator[tuple[FitRequest, Int64Array]]:
    """What is left without some labels, and their rows: bought labels alone, each class's dealt out in turn.

    Pseudo-labels stay away. They may have been learned from the very labels that are held out; and where those were
    left out, too, the held image would be among the samples with what was guessed of it, which flatters a part that
    remembers its samples.
    """
    rows = np.flatnonzero(request.bought & (request.weights > 0))
    classes = request.targets[rows].argmax(axis=1)
    turn = np.zeros(len(rows), np.int64)
    for label in np.unique(classes):
        mine = classes == label
        turn[mine] = np.arange(mine.sum()) % PARTS
    for part in range(PARTS):
        if (turn == part).any() and (turn != part).any():
            yield request.only(rows[turn != part]), rows[turn == part]
