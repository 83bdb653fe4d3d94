"""Accuracy without a test set: what bought labels tell about prompts that have never seen them (method.md, "UST").

A round's query set is drawn with known probabilities, and the prompts that the round began with had not learned from
it: weighted by its inclusion probabilities it is a fair exam of those prompts on all images that were unlabeled then.
For the final prompts there is no later draw; they are judged by cross-fitting: learned anew without a part of the
labels, judged on that part. With a part of the labels missing this errs on the low side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.answers import IGNORE
from psp_ray.core.records import Float32Array, Float64Array, Int32Array, Int64Array
from psp_ray.posterior.estimate import Estimate, estimate_mean, inclusion_probabilities

FEWEST_DRAWS = 5.0
"""Estimates from a smaller effective number of draws aren't shown or extrapolated: they would only confuse."""


def telling(estimate: Estimate | None) -> TypeGuard[Estimate]:
    """Whether an estimate rests on draws enough to be shown; `summary.json` has it in any case."""
    return estimate is not None and estimate.n_effective >= FEWEST_DRAWS


@dataclass(frozen=True)
class Answers:
    """All that was asked, in the order asked; see `psp_ray.run.state.RunState`."""

    asked: Int64Array
    answers: Int32Array
    log_prob: Float64Array
    asked_in: Int32Array
    cosines: Float32Array
    next_keys: dict[int, float]
    """The (n_s+1)-th perturbed key of each round's draw; NaN where there is none."""

    @property
    def correct(self) -> Float64Array:
        """(m,) 1 where the prompts of the time were right, 0 where wrong, NaN where no class was given."""
        right = (self.cosines.argmax(axis=1) == self.answers).astype(np.float64)
        return np.where((self.answers >= 0) & (self.asked_in > 0), right, np.nan)


def inclusion(audit: Answers, n_pool: int) -> Float64Array:
    """Inclusion probabilities q (m,) of everything asked, given its round; NaN where they are not known."""
    q = np.full(len(audit.asked), np.nan)
    for number, next_key in audit.next_keys.items():
        rows = np.flatnonzero((audit.asked_in == number) & np.isfinite(audit.log_prob))
        left = n_pool - int((audit.asked_in < number).sum())
        if not len(rows):
            continue
        found = inclusion_probabilities(audit.log_prob[rows], next_key, left)
        if found is not None:
            q[rows] = found
    return q


def round_estimates(audit: Answers, n_pool: int) -> dict[int, Estimate | None]:
    """For each round, the accuracy of the prompts that it began with on the images that were unlabeled then.

    Images of no class are not part of that population, and those skipped are taken to be like the others. None where
    the strategy doesn't say how probable its choices were.
    """
    q, correct = inclusion(audit, n_pool), audit.correct
    estimates = {}
    for number in audit.next_keys:
        rows = (audit.asked_in == number) & np.isfinite(q) & np.isfinite(correct)
        share = represented(audit, q, n_pool, [number])
        estimates[number] = estimate_mean(correct[rows], q[rows], represented=share)
    return estimates


def represented(
    audit: Answers, q: Float64Array, n_pool: int, rounds: Iterable[int] | None = None, *, whole: bool = False
) -> float:
    """What the draws of some rounds (default: all) stand for, as a share of what they should: `sum 1/q` over n."""
    found = wanted = 0.0
    for number in audit.next_keys if rounds is None else rounds:
        rows = (audit.asked_in == number) & np.isfinite(q)
        before = int((audit.asked_in < number).sum())
        size, left = float(rows.sum()), n_pool - before
        counted = (1.0 / q[rows]).sum()
        found += size * (before + counted) / n_pool if whole else size * counted / max(left, 1)
        wanted += size
    return found / wanted if wanted else 1.0


def pooled_weights(audit: Answers, n_pool: int, *, whole: bool = True) -> tuple[Float64Array, Float64Array]:
    """(weights, q), both (m,): all rounds' draws as one sample; weight 0 where nothing is known.

    Within a round weights go as 1/q, and a round counts by the number of its draws. They are normalized all together,
    and not by effective sizes: a round that drew a rare image has the smaller one, so that would favor common images.
    With `whole` the population is the pool as it was before the first round: a round's draws speak for what was left,
    what had been asked before speaks for itself (a policy that prefers easy images leaves a harder rest).
    """
    q = inclusion(audit, n_pool)
    usable = np.isfinite(q) & (audit.answers >= 0) & (audit.asked_in > 0)
    weights = np.zeros(len(q))
    for number in audit.next_keys:
        rows = usable & (audit.asked_in == number)
        if not rows.any():
            continue
        before = audit.asked_in < number
        size = float(rows.sum())
        weights[rows] += size / (n_pool if whole else n_pool - before.sum()) / q[rows]
        if whole:
            weights[usable & before] += size / n_pool
    return weights, q


def pooled_estimate(audit: Answers, cosines: Float32Array, n_pool: int) -> Estimate | None:
    """Accuracy of prompts whose cosines (m, C) to everything asked come from learning without it (cross-fitting)."""
    weights, q = pooled_weights(audit, n_pool)
    share = represented(audit, q, n_pool, whole=True)
    rows = weights > 0
    right = (cosines.argmax(axis=1) == audit.answers).astype(np.float64)
    return estimate_mean(right[rows], q[rows], weights=weights[rows], represented=share)


def recent_estimate(audit: Answers, n_pool: int, rounds: int) -> Estimate | None:
    """Accuracy by the draws of the last `rounds` rounds together: of prompts somewhat older than the present ones."""
    weights, q = pooled_weights(audit, n_pool, whole=False)
    latest = [number for number in audit.next_keys if number > max(audit.next_keys) - rounds]
    rows = (weights > 0) & np.isin(audit.asked_in, latest)
    share = represented(audit, q, n_pool, latest)
    return estimate_mean(audit.correct[rows], q[rows], weights=weights[rows], represented=share)


def share_of_none(audit: Answers, n_pool: int) -> Estimate | None:
    """Share of the pool that belongs to none of the classes, from `ignore` answers; None where unknown."""
    q = inclusion(audit, n_pool)
    rows = np.isfinite(q) & ((audit.answers >= 0) | (audit.answers == IGNORE)) & (audit.asked_in > 0)
    if not rows.any():
        return None
    none = (audit.answers[rows] == IGNORE).astype(np.float64)
    return estimate_mean(none, q[rows], represented=represented(audit, q, n_pool))


def folds(audit: Answers, count: int) -> list[NDArray[Any]]:
    """Rows of what was asked and given a class, dealt out in turn to `count` folds (fewer where there are too few)."""
    rows = np.flatnonzero((audit.answers >= 0) & (audit.asked_in > 0))
    count = min(count, len(rows))
    return [rows[start::count] for start in range(count)] if count >= 2 else []
