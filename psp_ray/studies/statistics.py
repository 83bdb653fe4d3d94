"""Means, paired differences with intervals, and labels needed. Plain functions over numbers; scipy does the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
FEWEST_PAIRS = 3
"""Pairs from which on an interval is shown: two have one degree of freedom, and an interval of 13 standard deviations
that hangs on their being normal."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1 in the denominator; None for one value) over n seeds."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences and its t interval; None bounds where fewer than `FEWEST_PAIRS` are known."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Needed:
    """Labels at which a curve first reaches a target; `at_most` where its very first round is above it already."""

    labels: float
    at_most: bool


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and standard deviation; None without values."""
    found = np.asarray(values, np.float64)
    if not len(found):
        return None
    return Spread(float(found.mean()), float(found.std(ddof=1)) if len(found) > 1 else None, len(found))


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Mean of `ours - theirs` over the seeds that both have, with Student's 95 % interval on n - 1 degrees of freedom.

    Seeds are pairs because they share the part of the pool and the noise of everything but the strategy. None without
    a common seed.
    """
    from scipy import stats

    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds], np.float64)
    mean, n = float(differences.mean()), len(differences)
    if n < FEWEST_PAIRS:
        return Difference(mean, None, None, n)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * differences.std(ddof=1) / np.sqrt(n))
    return Difference(mean, mean - half, mean + half, n)


def labels_needed(labels: Sequence[float], accuracy: Sequence[float], target: float) -> Needed | None:
    """Labels at which a learning curve first reaches `target`; None where it never does.

    Between two rounds the curve is a straight line. There is no line before the first round: where that is above the
    target already, its labels are an upper bound. `labels` ascend.
    """
    for place, (x, y) in enumerate(zip(labels, accuracy, strict=True)):
        if y < target:
            continue
        if place == 0:
            return Needed(float(x), at_most=y > target)
        x0, y0 = labels[place - 1], accuracy[place - 1]
        return Needed(float(x0 + (x - x0) * (target - y0) / (y - y0)), at_most=False)
    return None
