"""The reward of a round (method.md, step 7): `indicator * (mean gap of bought + beta * mean gap of pseudo-labeled)`.

`psp-paper` takes the indicator `log p_m(g)` as it is. `psp` divides it by its absolute value under uniform selection,
so that it stays negative, about -1, and does not drift with the size of the pool. `ms: none` puts -1 in its place.

The gap that is averaged: `after` (the student's, the note's), `before` (the teacher's), or `closed` = after - before,
which is negative where learning closed the gap, so that closing it is paid (the indicator is negative).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psp_ray.config.kinds import INDICATORS, REWARDS
from psp_ray.config.policy import PolicySettings
from psp_ray.core.records import Float64Array, LearnOutcome, Proposal


@dataclass(frozen=True)
class Gaps:
    """What the samples of a round are paid for: `new` (n_s,) bought ones, `pseudo` (p,) pseudo-labeled ones."""

    new: NDArray[np.floating]
    pseudo: NDArray[np.floating]


Worth = Callable[[LearnOutcome], Gaps]
"""A reward as `REWARDS` knows it, one file each in `psp_ray.policy.rewards`."""


@dataclass(frozen=True)
class Reward:
    """The scalar `total` = r_t, before `reward_scale`, and `own` (n_s,): what each bought sample would be paid if its
    own gap stood for the mean of the bought ones; the mean of `own` is `total`."""

    total: float
    own: Float64Array


def indicator_factor(proposal: Proposal, n: int, settings: PolicySettings) -> float:
    """The factor before the gaps, <= 0: raw, normalized (about -1) or -1; `n` samples were unlabeled."""
    indicator = INDICATORS.find(settings.ms)()
    raw = indicator.of(proposal.log_prob)
    if settings.reward_scaling == "paper":
        return min(raw, 0.0)
    size = abs(indicator.uniform(n, len(proposal.positions)))
    # The one set of a pool of one has probability 1 whatever the policy: nothing to normalize.
    return min(raw, 0.0) / size if size > 1e-12 else -1.0


def reward(proposal: Proposal, n: int, outcome: LearnOutcome, settings: PolicySettings) -> Reward:
    """The reward of buying `proposal` out of `n` unlabeled samples, given what the student learned.

    Raises ValueError where the outcome's gaps don't belong to the proposal or are not finite.
    """
    gaps = REWARDS.find(settings.reward_gap)(outcome)
    new, pseudo = np.asarray(gaps.new, np.float64), np.asarray(gaps.pseudo, np.float64)
    if len(new) != len(proposal.positions):
        raise ValueError(f"{len(new)} gaps for {len(proposal.positions)} bought samples")
    if not (np.isfinite(new).all() and np.isfinite(pseudo).all()):
        raise ValueError("the student's gaps are not finite")
    factor = indicator_factor(proposal, n, settings)
    rest = settings.beta * float(np.mean(pseudo)) if len(pseudo) else 0.0
    return Reward(total=factor * (float(np.mean(new)) + rest), own=factor * (new + rest))
