"""The audit stratum: images that were drawn by chance alone, by a plan that is known before the first label.

All images of the pool stand in one random sequence, a function of the seed and their names. A share `audit_fraction`
of every query set is taken from it: the first images of the sequence that nobody was asked about yet. Given all that
happened before, they are a simple random sample of what is unlabeled. And pooled over the rounds, with the images of
the same stretch of the sequence that the strategy had chosen by itself, they are a simple random sample of the whole
pool: whoever else was asked, the first images of a random sequence are as good as any. So accuracy on them is a plain
proportion, without weights (Cochran, Sampling Techniques, 3rd ed. 1977, chapters 2 and 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core import noise
from psp_ray.core.records import Float32Array, Int32Array, Int64Array, UInt64Array

BoolArray = NDArray[np.bool_]


def audit_order(seed: int, keys: UInt64Array) -> UInt64Array:
    """Words (n,) whose ascending order is the sequence; `keys` (n,) are the samples' noise keys (ties: by key)."""
    return noise.bits(seed, "audit", keys)


def planned_draws(audit_fraction: float, n_query: int, round: int) -> int:
    """Chance draws among the `n_query` of round 1, 2, ...: rounded so that all rounds together come out right.

    A share of 0.03 of 10 labels is a draw in rounds 2, 5, 9, ...
    """

    def until(number: int) -> int:
        return int(np.floor(audit_fraction * n_query * number + 0.5))

    return min(n_query, until(round) - until(round - 1))


@dataclass(frozen=True)
class Answers:
    """All that was asked, in the order asked; rows are those of `psp_ray.run.state.RunState`.

    `asked` (m,) positions; `answers` (m,) a class, SKIP or IGNORE; `asked_in` (m,) rounds (0: initial labels);
    `by_chance` (m,) whether the plan drew it; `order` (m,) its word in `audit_order`; `logits` (m, C) of
    the classifier of the time, which had not seen the answer (NaN for initial labels).
    """

    asked: Int64Array
    answers: Int32Array
    asked_in: Int32Array
    by_chance: BoolArray
    order: UInt64Array
    logits: Float32Array

    @property
    def right(self) -> BoolArray:
        """(m,) whether the classifier of the time was right; false where no class was given."""
        return correct(self.logits, self.answers)


def correct(scores: NDArray[Any], answers: Int32Array) -> BoolArray:
    """(m,) whether the class of largest score (m, C) is the answer; rows of NaN are wrong."""
    scores = np.asarray(scores, np.float64)
    known: BoolArray = np.isfinite(scores).all(axis=1)
    best: BoolArray = np.where(known[:, None], scores, 0.0).argmax(axis=1) == answers
    return best & known


def stratum(answers: Answers, until: int | None = None) -> BoolArray:
    """Rows (m,) of the audit stratum after round `until` (default: the last): chance draws, and what the strategy
    chose among the images before the last of them in the sequence. Initial labels are outside: nobody drew them."""
    within = answers.asked_in > 0
    if until is not None:
        within &= answers.asked_in <= until
    drawn = within & answers.by_chance
    if not drawn.any():
        return drawn
    inside: BoolArray = within & (answers.order <= answers.order[drawn].max())
    return drawn | inside
