"""`X+audit`: any strategy, with a share of the query set drawn by chance, so that accuracy can be estimated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from psp_ray.acquisition.base import WRAPPERS, AcquisitionFunction, validate_state
from psp_ray.acquisition.strategy import Wrapper, same_state
from psp_ray.config.policy import AuditSettings
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
    UInt64Array,
)
from psp_ray.policy import sampling


@WRAPPERS.register("audit")
class Audit(Wrapper):
    """Draws `audit_fraction` of the query set (at least one) uniformly, and lets the strategy choose the rest.

    For strategies that don't know how probable their choices are. The uniform part comes first in the proposal, with
    `log_prob` log 1/n and the next perturbed key of its own draw; the rest has NaN: estimates look at the former only.
    A strategy that learns sees its own part of the query set. O(n) time beside the strategy's.

    Source: the mixture with a uniform part by which `vssp` bounds its smallest probability (`eps` of `docs/method.md`),
    made a stratum of its own.
    """

    suffix = "audit"
    settings_class = AuditSettings
    settings: AuditSettings

    def __init__(self, inner: AcquisitionFunction, pool: PoolReader, settings: AuditSettings | None = None) -> None:
        super().__init__(inner, pool, settings)
        self._last: tuple[PoolState, Int64Array] | None = None

    def propose(self, state: PoolState) -> Proposal:
        """Draw the audit part, then ask the strategy. Raises what the strategy raises."""
        validate_state(state, self.pool)
        positions, log_prob, next_key = self._draw(state)
        self._last = state, positions
        rest = self._rest(state, positions)
        if not rest.n_query:
            return Proposal(positions, log_prob, next_key)
        chosen = self.inner.propose(rest)
        return Proposal(
            np.concatenate([positions, chosen.positions]),
            np.concatenate([log_prob, np.full(len(chosen.positions), np.nan)]),
            next_key,
        )

    def observe(self, feedback: Feedback) -> Observation:
        """Let the strategy learn from what it chose itself."""
        drawn = self._drawn(feedback.state)
        self._last = None
        own = ~np.isin(feedback.proposal.positions, drawn)
        if not own.any():
            return Observation()
        proposal = replace(
            feedback.proposal,
            positions=feedback.proposal.positions[own],
            log_prob=feedback.proposal.log_prob[own],
            next_key=float("nan"),
        )
        outcome = replace(
            feedback.outcome,
            gap_new=feedback.outcome.gap_new[own],
            gap_new_before=feedback.outcome.gap_new_before[own],
        )
        return self.inner.observe(
            replace(
                feedback,
                state=self._rest(feedback.state, drawn),
                proposal=proposal,
                labels=feedback.labels[own],
                outcome=outcome,
            )
        )

    def load_state_dict(self, state: StateDict) -> None:
        """Continue to the same bits."""
        self._last = None
        super().load_state_dict(state)

    def _drawn(self, state: PoolState) -> Int64Array:
        if self._last is None or not same_state(self._last[0], state):
            self._last = state, self._draw(state)[0]
        return self._last[1]

    def _draw(self, state: PoolState) -> tuple[Int64Array, Float64Array, float]:
        count = min(state.n_query, max(1, round(self.settings.eps * state.n_query)))
        log_a = -np.log(len(state.unlabeled))

        def blocks() -> Iterator[tuple[Int64Array, Float64Array, Float64Array, UInt64Array]]:
            for block in read_blocks(self.pool, state.unlabeled):
                gumbel = noise.gumbel(state.seed, "audit", block.keys, round=state.round)
                yield block.positions, np.full(len(block.positions), log_a), gumbel, block.keys

        return sampling.draw(blocks(), count)

    def _rest(self, state: PoolState, drawn: Int64Array) -> PoolState:
        return replace(
            state,
            unlabeled=np.setdiff1d(state.unlabeled, drawn, assume_unique=True),
            n_query=state.n_query - len(drawn),
        )
