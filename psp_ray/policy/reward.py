"""The reward of a round (method.md, step 7): what learning from a query set was worth, and how well it was meant.

What a sample was worth has one of these forms (`reward_gap`), a file each in `psp_ray.policy.rewards`:

- `after` (the note's): the gap that the student leaves, a loss >= 0. The reward is `indicator * mean loss`: both
  factors say how bad the round was, and a smaller loss or a more probable draw brings it nearer to 0.
- `closed`: the gap that learning closed, before - after, a gain of either sign.
- `before`: the gap that the teacher had, a gain >= 0: there was so much to be learned.

A gain must not be multiplied by the indicator, which is negative and the larger the less probable the draw: that would
pay for helpful samples that were drawn by accident. It is multiplied by `2 / (1 + |indicator|)` (ours), which is
positive, 1 under uniform selection (normalized), at most 2, and grows with the draw's probability. Thus in every form a
more probable draw of helpful samples brings the larger reward, and of harmful ones the smaller.

`psp-paper` takes the indicator `log p_m(g)` as it is. `psp` divides it by its absolute value under uniform selection,
so that it stays negative, about -1, and does not drift with the size of the pool. `ms: none` puts -1 in its place.
Newly bought and pseudo-labeled samples enter alike, the latter with weight `beta`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psp_ray.config.kinds import INDICATORS, REWARDS
from psp_ray.config.policy import PolicySettings
from psp_ray.core.errors import UserError
from psp_ray.core.others import is_others
from psp_ray.core.records import Float64Array, LearnOutcome, Proposal


@dataclass(frozen=True)
class Worths:
    """What samples were worth: `new` (n_s,) bought ones, `pseudo` (p,) pseudo-labeled ones; losses, or gains."""

    new: NDArray[np.floating]
    pseudo: NDArray[np.floating]
    gains: bool = False


Worth = Callable[[LearnOutcome], Worths]
"""A reward as `REWARDS` knows it."""


@dataclass(frozen=True)
class Reward:
    """The scalar `total` = r_t, before `reward_scale`, and `own` (n_s,): what each bought sample would be paid if its
    own gap stood for the mean of the bought ones; the mean of `own` is `total`."""

    total: float
    own: Float64Array


def indicator_factor(proposal: Proposal, n: int, settings: PolicySettings) -> float:
    """The indicator in the reward, <= 0: raw, normalized (about -1) or -1; `n` samples were unlabeled."""
    indicator = INDICATORS.find(settings.ms)()
    raw = indicator.of(proposal.log_prob)
    if settings.reward_scaling == "paper":
        return min(raw, 0.0)
    size = abs(indicator.uniform(n, len(proposal.positions)))
    # The one set of a pool of one has probability 1 whatever the policy: nothing to normalize.
    return min(raw, 0.0) / size if size > 1e-12 else -1.0


def _fault(worth: Worth, settings: PolicySettings, reason: str) -> Exception:
    """The error for what a reward gave: the user's to mend where another package has it."""
    return UserError(f"reward {settings.reward_gap!r}: {reason}; mend it") if is_others(worth) else ValueError(reason)


def reward(proposal: Proposal, n: int, outcome: LearnOutcome, settings: PolicySettings) -> Reward:
    """The reward of buying `proposal` out of `n` unlabeled samples, given what the student learned.

    Raises ValueError where the outcome's gaps don't belong to the proposal or are not finite (UserError: those of
    another package's reward).
    """
    worth = REWARDS.find(settings.reward_gap)
    worths = worth(outcome)
    new, pseudo = np.asarray(worths.new, np.float64), np.asarray(worths.pseudo, np.float64)
    if len(new) != len(proposal.positions):
        raise _fault(worth, settings, f"{len(new)} gaps for {len(proposal.positions)} bought samples")
    if not (np.isfinite(new).all() and np.isfinite(pseudo).all()):
        raise _fault(worth, settings, "the student's gaps are not finite")
    factor = indicator_factor(proposal, n, settings)
    if worths.gains:
        factor = 2.0 / (1.0 + abs(factor))
    rest = settings.beta * float(np.mean(pseudo)) if len(pseudo) else 0.0
    return Reward(total=factor * (float(np.mean(new)) + rest), own=factor * (new + rest))
