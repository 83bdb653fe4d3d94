"""`X+sub`: any strategy on a uniform part of a pool that is too large for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from psp_ray.acquisition.base import WRAPPERS, AcquisitionFunction, validate_state
from psp_ray.acquisition.strategy import Wrapper, same_state
from psp_ray.config.acquisition import SubsampleSettings
from psp_ray.core import noise
from psp_ray.core.pool import read_blocks
from psp_ray.core.records import (
    Feedback,
    Float64Array,
    Int64Array,
    Observation,
    PoolReader,
    PoolState,
    Proposal,
    StateDict,
)
from psp_ray.posterior.inclusion import inclusion_probabilities


@WRAPPERS.register("sub")
class Subsample(Wrapper):
    """Shows the strategy `sub_size` of the n unlabeled samples (at least n_query), drawn anew in every round.

    Source: the usual way to bring quadratic strategies to large pools. The part is the samples of smallest noise, so
    that every sample is in it with probability m / n. Where the strategy knows its odds q_i within the part, those
    within the pool are `m / n * q_i`, and the proposal says so: with `next_key` 0, `log_prob` is the log of the
    intensity a_i for which `1 - exp(-a_i)` is that probability; inverse probabilities stay unbiased over the pool. Else
    they are NaN. Pools of no more than `sub_size` samples are passed on as they are. A strategy that learns sees the
    part as its pool.

    O(n) time beside the strategy's on m samples.
    """

    suffix = "sub"
    settings_class = SubsampleSettings
    settings: SubsampleSettings

    def __init__(self, inner: AcquisitionFunction, pool: PoolReader, settings: SubsampleSettings | None = None) -> None:
        super().__init__(inner, pool, settings)
        self._last: tuple[PoolState, PoolState, Proposal] | None = None

    def propose(self, state: PoolState) -> Proposal:
        """Choose the query set. Raises what the strategy raises."""
        validate_state(state, self.pool)
        part, proposal = self._ask(state)
        share = len(part.unlabeled) / len(state.unlabeled)
        if share == 1.0 or np.isnan(proposal.log_prob).any():
            return proposal
        if np.isnan(proposal.next_key) and len(proposal.positions) < len(part.unlabeled):
            return Proposal(proposal.positions, np.full(len(proposal.positions), np.nan))
        q = share * inclusion_probabilities(proposal.log_prob, proposal.next_key)
        return Proposal(proposal.positions, intensities(q), 0.0, proposal.ms_indicator)

    def observe(self, feedback: Feedback) -> Observation:
        """Let the strategy learn from its own proposal within its part of the pool."""
        part, proposal = self._ask(feedback.state)
        self._last = None
        left = np.setdiff1d(part.unlabeled, proposal.positions, assume_unique=True)
        answered = np.isin(proposal.positions, feedback.proposal.positions)  # some may have been skipped
        proposal = replace(proposal, positions=proposal.positions[answered], log_prob=proposal.log_prob[answered])
        own = {"state": part, "proposal": proposal, "unlabeled_next": left}
        return self.inner.observe(Feedback(**{**vars(feedback), **own, "final": feedback.final or not len(left)}))

    def load_state_dict(self, state: StateDict) -> None:
        """Continue to the same bits."""
        self._last = None
        super().load_state_dict(state)

    def _ask(self, state: PoolState) -> tuple[PoolState, Proposal]:
        """The strategy's state and proposal: asked once a round, or again by a process that didn't propose."""
        if self._last is None or not same_state(self._last[0], state):
            part = PoolState(**{**vars(state), "unlabeled": self.part(state)})
            self._last = state, part, self.inner.propose(part)
        return self._last[1], self._last[2]

    def part(self, state: PoolState) -> Int64Array:
        """Sorted positions (m,) that the strategy is shown in this round."""
        size = max(self.settings.sub_size, state.n_query)
        if size >= len(state.unlabeled):
            return state.unlabeled
        keys = np.concatenate([block.keys for block in read_blocks(self.pool, state.unlabeled)])
        words = noise.bits(state.seed, "sub", keys, round=state.round)
        return np.sort(state.unlabeled[np.lexsort((keys, words))[:size]])


def intensities(q: Float64Array) -> Float64Array:
    """log a (m,) with `1 - exp(-a) = q`, for inclusion probabilities q (m,) in (0, 1)."""
    with np.errstate(divide="ignore"):
        return np.log(-np.log1p(-np.asarray(q, np.float64)))
