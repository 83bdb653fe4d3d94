"""Uniform selection: the curve that every other strategy is compared with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from psp_ray.acquisition.base import register, validate_state
from psp_ray.config.base import Settings
from psp_ray.core import noise
from psp_ray.core.records import (
    BLOCK_SIZE,
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
from psp_ray.policy import indicator, sampling


@register("random")
class Random:
    """`n_query` of the n_t unlabeled samples, all equally likely; noise keyed by (seed, round, sample).

    Drawn as Gumbel-top-k at `log a_i = -log n_t`. Every draw is by chance alone, so all of them audit the classifier.
    """

    name = "random"

    def __init__(self, pool: PoolReader, settings: Settings | None = None) -> None:
        self.pool = pool

    def propose(self, state: PoolState) -> Proposal:
        """Draw the query set. Raises UserError for an empty pool or a query larger than the pool."""
        validate_state(state, self.pool)
        positions, log_prob, next_key = sampling.draw(self._blocks(state), state.n_query)
        return Proposal(positions, log_prob, next_key, indicator.multinomial(log_prob), len(positions))

    def _blocks(self, state: PoolState) -> Iterator[tuple[Int64Array, Float64Array, Float64Array, UInt64Array]]:
        size = int(getattr(self.pool, "block_size", BLOCK_SIZE))
        log_a = -np.log(len(state.unlabeled))
        for index in np.unique(state.unlabeled // size).tolist():
            low, high = np.searchsorted(state.unlabeled, [index * size, (index + 1) * size])
            positions = state.unlabeled[low:high]
            keys = self.pool.block(index).keys[positions - index * size]
            gumbel = noise.gumbel(state.seed, "random", keys, round=state.round)
            yield positions, np.full(len(positions), log_a), gumbel, keys

    def observe(self, feedback: Feedback) -> Observation:
        """Nothing to learn."""
        return Observation()

    def state_dict(self) -> StateDict:
        """Empty: the draw depends on the seed, the round and the samples alone."""
        return {}

    def load_state_dict(self, state: StateDict) -> None:
        """Nothing to load."""
