"""What the strategies share: a base without memory, and checked reading of the pool, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from psp_ray.acquisition.base import validate_state
from psp_ray.core import noise
from psp_ray.core.pool import class_embeddings, read_blocks
from psp_ray.core.records import (
    Feedback,
    Int64Array,
    Observation,
    PoolReader,
    PoolState,
    Proposal,
    StateDict,
    TextState,
)

DECIMALS = 5
"""Scores that agree so far are a tie: what lies behind is rounding, which depends on how the pool is cut."""

CACHE_BYTES = 1 << 30
"""What a strategy that passes over the pool many times may keep of it; the rest is computed anew in every pass."""


class Baseline:
    """A strategy that keeps nothing between rounds: a subclass gives `name` and `choose`."""

    name = "baseline"

    def __init__(self, pool: PoolReader, settings: Any = None) -> None:
        self.pool = pool
        self.settings = settings

    def propose(self, state: PoolState) -> Proposal:
        """Choose the query set.

        Raises UserError for an empty pool or a query larger than it, DatasetError for features that are not finite.
        """
        validate_state(state, self.pool)
        return unknown_odds(self.choose(state))

    def choose(self, state: PoolState) -> Int64Array:
        """`state.n_query` distinct positions out of `state.unlabeled`, best first."""
        raise NotImplementedError

    def observe(self, feedback: Feedback) -> Observation:
        """Nothing to learn."""
        return Observation()

    def state_dict(self) -> StateDict:
        """Empty: a proposal depends on the pool, the state it is asked for, and the settings alone."""
        return {}

    def load_state_dict(self, state: StateDict) -> None:
        """Nothing to load."""


def unknown_odds(positions: Int64Array) -> Proposal:
    """A proposal whose selection probabilities nobody knows."""
    return Proposal(np.asarray(positions, np.int64), np.full(len(positions), np.nan))


def generator(state: PoolState, purpose: str) -> np.random.Generator:
    """A random generator for (seed, round, purpose)."""
    return np.random.default_rng(noise.stream_key(state.seed, purpose, state.round))


def same_state(a: PoolState, b: PoolState) -> bool:
    """Whether two states ask the same: a state that crossed to another process and back is another object."""
    return (a.round, a.seed, a.n_query) == (b.round, b.seed, b.n_query) and all(
        np.array_equal(x, y)
        for x, y in ((a.unlabeled, b.unlabeled), (a.labeled, b.labeled), (a.text.features, b.text.features))
    )


def predictions(pool: PoolReader, positions: Int64Array, text: TextState) -> Int64Array:
    """The class that the prompt gives each of the sorted `positions` (n,); ties to the lower class."""
    embeddings = class_embeddings(text, pool)
    parts = [(block.features @ embeddings.T).argmax(axis=1) for block in read_blocks(pool, positions)]
    return np.concatenate([np.zeros(0, np.int64), *parts])


T = TypeVar("T", bound=tuple[NDArray[Any], ...])


class Passes(Generic[T]):
    """Blocks of arrays to go over many times: kept up to `limit` bytes, made anew by `make()` beyond."""

    def __init__(self, make: Callable[[], Iterator[T]], limit: int = CACHE_BYTES) -> None:
        self._make, self._limit = make, limit
        self.kept: list[T] | None = None
        """All blocks, once a pass has shown that they fit."""
        self._too_large = False

    def __iter__(self) -> Iterator[T]:
        if self.kept is not None:
            yield from self.kept
            return
        kept: list[T] = []
        total = 0
        for arrays in self._make():
            total += sum(array.nbytes for array in arrays)
            if total > self._limit:
                self._too_large = True
                kept.clear()
            if not self._too_large:
                kept.append(arrays)
            yield arrays
        if not self._too_large:
            self.kept = kept
