"""Accuracy without a test set: what the audit stratum tells about a classifier that has not seen its labels.

Three ways to a classifier that has not seen them:

- *prequential*: a round's draws judge the classifier that the round began with;
- *cross-fitted* (`psp_ray.posterior.crossfit`): the classifier is learned anew without the labels that judge it, with
  everything that a label touches. With a part of the labels missing this errs on the low side;
- *recent*: the draws of the last rounds, each judging the classifier of its time: somewhat older, so lower. Plans for
  the next rounds use it; as an estimate it is not shown.

The draws are a simple random sample, so the limits are those of a binomial proportion (Clopper and Pearson,
Biometrika 1934): they hold the truth in at least 95 of 100 runs for any number of draws, and whatever the strategy.
They don't count how much of the pool the draws are, so that they hold for new images of the same kind, too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

import numpy as np
import scipy
from numpy.typing import NDArray

from psp_ray.core.answers import IGNORE, SKIP
from psp_ray.posterior.audit import Answers, BoolArray, correct, stratum

FEWEST_DRAWS = 5
"""With fewer *planned* chance draws no estimate is shown. How the draws turned out never decides: that would select
on luck."""
WINDOW = 3
"""Rounds whose draws make a `recent` estimate."""


@dataclass(frozen=True)
class Estimate:
    """A share `value` in 0..1 with its 95 % limits (or the level asked for).

    `draws`: images of the audit stratum it rests on, skipped ones included; `planned`: chance draws asked for till
    then, whatever their answers.
    """

    value: float
    low: float
    high: float
    draws: int
    planned: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def telling(estimate: Estimate | None) -> TypeGuard[Estimate]:
    """Whether the design supports showing an estimate; `summary.json` has it in any case."""
    return estimate is not None and estimate.planned >= FEWEST_DRAWS


def limits(right: int, draws: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's limits of a proportion; (0, 1) without draws."""
    tail = (1.0 - level) / 2.0
    low = float(scipy.special.betaincinv(right, draws - right + 1, tail)) if right > 0 else 0.0
    high = float(scipy.special.betaincinv(right + 1, draws - right, 1.0 - tail)) if right < draws else 1.0
    return low, high


def estimate_share(right: int, wrong: int, unknown: int, planned: int, level: float = 0.95) -> Estimate | None:
    """A share from a simple random sample, some outcomes of which are unknown. None where all are.

    A skipped image is not missing by chance: people skip what is hard to tell. So the lower limit counts it as wrong
    and the upper one as right, which holds whatever the reason. The value takes it to be right half as often as the
    others, the middle between "never" and "no less often than they".
    """
    known, draws = right + wrong, right + wrong + unknown
    if not known:
        return None
    value = (right + unknown * right / known / 2.0) / draws
    return Estimate(value, limits(right, draws, level)[0], limits(right + unknown, draws, level)[1], draws, planned)


def _judge(
    answers: Answers, rows: BoolArray, right: BoolArray, planned: int, unjudged: BoolArray | None = None
) -> Estimate | None:
    """Images of no class are not part of the population; of those skipped, or `unjudged`, the outcome is unknown."""
    unknown = answers.answers == SKIP
    if unjudged is not None:
        unknown = unknown | (unjudged & (answers.answers >= 0))
    known = rows & (answers.answers >= 0) & ~unknown
    hits = int(right[known].sum())
    return estimate_share(hits, int(known.sum()) - hits, int((rows & unknown).sum()), planned)


def crossfit_estimate(answers: Answers, scores: NDArray[Any], round: int) -> Estimate | None:
    """Accuracy of the classifier after `round`, by `scores` (m, C) of classifiers that left out a row's label.

    `scores` are those of `crossfit` after that round; what was asked later may be lacking, and what was skipped then
    and labeled since counts as unknown. The chance draws of the next round count as soon as they are there: the
    classifier itself has not seen them.
    """
    rows = stratum(answers, round)
    later = np.full((len(answers.asked) - len(scores), answers.logits.shape[1]), np.nan)
    scores = np.concatenate([scores, later])
    next_draws = answers.by_chance & (answers.asked_in == round + 1)
    right = np.where(next_draws, answers.right, correct(scores, answers.answers))
    unjudged = ~next_draws & ~np.isfinite(scores).all(axis=1)
    return _judge(answers, rows | next_draws, right, _planned(answers, round + 1), unjudged)


def round_estimate(answers: Answers, round: int) -> Estimate | None:
    """Accuracy of the classifier that `round` began with, by the round's own chance draws alone."""
    rows = answers.by_chance & (answers.asked_in == round)
    return _judge(answers, rows, answers.right, int(rows.sum()))


def recent_estimate(answers: Answers, round: int, rounds: int = WINDOW) -> Estimate | None:
    """Accuracy by the chance draws of the `rounds` rounds up to `round`, each judging the classifier of its time.

    For plans, not for showing: what the classifiers of these rounds have in common is an assumption. From round 2 on
    those of round 1 are left out, which judged what was there before any learning.
    """
    first = max(round - rounds + 1, min(round, 2))
    rows = answers.by_chance & (answers.asked_in <= round) & (answers.asked_in >= first)
    return _judge(answers, rows, answers.right, int(rows.sum()))


def share_of_none(answers: Answers) -> Estimate | None:
    """Share of the pool that belongs to none of the classes; skipped images may or may not."""
    rows = stratum(answers)
    none, classed = (int((rows & kind).sum()) for kind in (answers.answers == IGNORE, answers.answers >= 0))
    skipped = int((rows & (answers.answers == SKIP)).sum())
    return estimate_share(none, classed, skipped, _planned(answers))


def _planned(answers: Answers, until: int | None = None) -> int:
    rows = answers.by_chance & (answers.asked_in > 0)
    return int((rows if until is None else rows & (answers.asked_in <= until)).sum())
