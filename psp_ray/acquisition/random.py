"""Uniform selection: the curve that every other strategy is compared with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from psp_ray.acquisition.base import STRATEGIES, validate_state
from psp_ray.acquisition.strategy import Strategy
from psp_ray.core import noise
from psp_ray.core.pool import block_spans
from psp_ray.core.records import (
    Float64Array,
    Int64Array,
    PoolState,
    Proposal,
    UInt64Array,
)
from psp_ray.policy import indicator, sampling


@STRATEGIES.register("random")
class Random(Strategy):
    """`n_query` of the n_t unlabeled samples, all equally likely; noise keyed by (seed, round, sample).

    Drawn as Gumbel-top-k at `log a_i = -log n_t`. Every draw is by chance alone, so all of them audit the classifier.
    Source: Kool, van Hoof and Welling, "Stochastic beams and where to find them" (ICML 2019). O(n) time, no feature is
    looked at.
    """

    name = "random"

    def propose(self, state: PoolState) -> Proposal:
        """Draw the query set. Raises UserError for an empty pool or a query larger than the pool."""
        validate_state(state, self.pool)
        positions, log_prob, next_key = sampling.draw(self._blocks(state), state.n_query)
        return Proposal(positions, log_prob, next_key, indicator.multinomial(log_prob), len(positions))

    def _blocks(self, state: PoolState) -> Iterator[tuple[Int64Array, Float64Array, Float64Array, UInt64Array]]:
        log_a = -np.log(len(state.unlabeled))
        for index, span in block_spans(state.unlabeled, self.pool.block_size):
            positions = state.unlabeled[span]
            block = self.pool.block(index)
            keys = block.keys[positions - block.start]
            gumbel = noise.gumbel(state.seed, "random", keys, round=state.round)
            yield positions, np.full(len(positions), log_a), gumbel, keys
