"""`X+audit`: any strategy, with a share of the query set drawn by chance, so that accuracy can be estimated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from psp_ray.acquisition.base import WRAPPERS, AcquisitionFunction, validate_state
from psp_ray.acquisition.strategy import Wrapper, same_state
from psp_ray.config.acquisition import AuditSettings
from psp_ray.core.pool import read_keys
from psp_ray.core.records import Feedback, Grounds, Int64Array, Observation, PoolReader, PoolState, Proposal, StateDict
from psp_ray.posterior.audit import audit_order, planned_draws


def with_audit(strategy: str, settings: AuditSettings) -> str:
    """The strategy that is run for `strategy`: `vssp` audits without being told, unless `audit_fraction` is 0."""
    base, *wrappers = strategy.split("+")
    return strategy + "+audit" if base == "vssp" and settings.audit_share and "audit" not in wrappers else strategy


@WRAPPERS.register("audit")
class Audit(Wrapper):
    """Draws `audit_fraction` of the labels by chance, and lets the strategy choose the rest.

    The chance part is the next piece of one random sequence of the pool (`psp_ray.posterior.audit`): known beforehand,
    whatever the strategy does. It comes first in the proposal (`n_audit`), with `log_prob` log 1/n; how many it is in a
    round follows from the share, so that it comes out right over the rounds. What follows is the strategy's, with what
    it says of its odds among the samples that were left to it. A strategy that learns sees its own part of the query
    set. O(n) time beside the strategy's.

    Source: the uniform share by which method.md keeps estimates honest (`eps`), made a stratum of its own, for a share
    that is mixed into a policy's probabilities is drawn when luck has it, and weighs what it draws by the pool's size.
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
        positions = self._draw(state)
        self._last = state, positions
        chance = np.full(len(positions), -np.log(len(state.unlabeled)))
        rest = self._rest(state, positions)
        if not rest.n_query:
            return Proposal(positions, chance, n_audit=len(positions))
        chosen = self.inner.propose(rest)
        grounds = Grounds.unknown(len(positions))
        return replace(
            chosen,
            positions=np.concatenate([positions, chosen.positions]),
            log_prob=np.concatenate([chance, chosen.log_prob]),
            n_audit=len(positions),
            grounds=None if chosen.grounds is None else grounds.then(chosen.grounds),
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
            n_audit=0,
            grounds=None,
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
            self._last = state, self._draw(state)
        return self._last[1]

    def _draw(self, state: PoolState) -> Int64Array:
        """The next samples of the sequence, in its order."""
        count = planned_draws(self.settings.audit_share, state.n_query, state.round)
        if not count:
            return np.zeros(0, np.int64)
        keys = read_keys(self.pool, state.unlabeled)
        order = np.lexsort((keys, audit_order(state.seed, keys)))
        first: Int64Array = state.unlabeled[order[:count]]
        return first

    def _rest(self, state: PoolState, drawn: Int64Array) -> PoolState:
        if not len(drawn):
            return state
        return replace(
            state,
            unlabeled=np.setdiff1d(state.unlabeled, drawn, assume_unique=True),
            n_query=state.n_query - len(drawn),
        )
