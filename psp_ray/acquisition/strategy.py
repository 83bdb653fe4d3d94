"""The base of strategies and wrappers: what every one of them owes is done here, once.

A new strategy gives `score` where samples are chosen one by one, the best first, or `choose` where it matters which
others are chosen; one that knows its odds or learns overrides `propose` and `observe`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from psp_ray.acquisition.base import AcquisitionFunction, validate_state
from psp_ray.config.base import Settings
from psp_ray.core import noise
from psp_ray.core.errors import UserError
from psp_ray.core.pool import Block, class_embeddings, read_blocks
from psp_ray.core.records import (
    Feedback,
    Float64Array,
    Int64Array,
    Observation,
    PoolReader,
    PoolState,
    Proposal,
    StateDict,
    TextState,
)
from psp_ray.core.topk import StreamingTopK

DECIMALS = 5
"""Scores that agree so far are a tie: what lies behind is rounding, which depends on how the pool is cut."""


class Strategy:
    """Base of strategies, known by `STRATEGIES.register(name)`; without more it keeps nothing between rounds.

    Args:
        pool: frozen features; read them with `psp_ray.core.pool`, which checks them.
        settings: an instance of `settings_class`; None: its defaults.
    """

    name = ""
    """The name it is registered under; filled in where a class gives none."""
    settings_class: ClassVar[type[Settings]] = Settings
    """Its settings, if it has any: fields of built-in ones are config keys, others are set by `strategy_settings`."""
    settings: Any

    def __init__(self, pool: PoolReader, settings: Any = None) -> None:
        self.pool = pool
        self.settings = self.settings_class() if settings is None else settings

    def warm_up(self) -> None:
        """Import what `propose` and `observe` take: called beside other work, in a thread, and not everywhere."""

    def propose(self, state: PoolState) -> Proposal:
        """Choose the query set; odds are unknown (NaN) unless a subclass knows them.

        Raises UserError for an empty pool or a query larger than it, DatasetError for features that are not finite.
        """
        validate_state(state, self.pool)
        return unknown_odds(self.choose(state))

    def choose(self, state: PoolState) -> Int64Array:
        """`state.n_query` distinct positions out of `state.unlabeled`, best first: here those of largest `score`.

        Scores equal to five decimals are ordered by the samples' noise keys.
        """
        top = StreamingTopK(1, state.n_query)
        for block, scores in self._scored(state):
            finite = np.clip(np.round(scores, DECIMALS), -np.finfo(np.float64).max, None)  # -inf: last, but not never
            top.offer(finite[None, :], block.positions, block.keys)
        return top.result()[2]

    def score(self, block: Block, state: PoolState) -> Float64Array:
        """How much each sample of a block is worth asking about, (m,): the larger, the sooner; -inf: last; no NaN."""
        raise NotImplementedError

    def utilities(self, state: PoolState) -> Float64Array | None:
        """Scores (n_t,) float64 of `state.unlabeled`, in its order, the larger the sooner.

        None where samples aren't chosen by a score of their own: that is all a strategy says about why.
        """
        if type(self).score is Strategy.score:
            return None
        validate_state(state, self.pool)
        return np.concatenate([scores for _, scores in self._scored(state)])

    def _scored(self, state: PoolState) -> Iterator[tuple[Block, Float64Array]]:
        for block in read_blocks(self.pool, state.unlabeled):
            yield block, self._checked(self.score(block, state), block)

    def _checked(self, given: Any, block: Block) -> Float64Array:
        """What `score` gave for a block (m,). Raises UserError where it isn't a number for each sample."""
        mine = f"strategy {self.name or type(self).__name__}"
        try:
            scores = np.asarray(given, np.float64)
        except (TypeError, ValueError):
            raise UserError(f"{mine}: score gave no numbers ({type(given).__name__}); mend it") from None
        if scores.shape != block.positions.shape:
            raise UserError(
                f"{mine}: score gave an array of shape {scores.shape} for the {len(block.positions):,} "
                "samples of a block; give one number for each"
            )
        missing = np.isnan(scores)
        if missing.any():
            raise UserError(
                f"{mine}: score gave no number (NaN) for {missing.sum():,} of {len(scores):,} samples, "
                f"first for sample {block.positions[missing][0]} of the pool; give each a number (-inf: last)"
            )
        return scores

    def observe(self, feedback: Feedback) -> Observation:
        """Nothing to learn."""
        return Observation()

    def state_dict(self) -> StateDict:
        """Empty: a proposal depends on the pool, the state it is asked for, and the settings alone."""
        return {}

    def load_state_dict(self, state: StateDict) -> None:
        """Nothing to load."""


class Wrapper:
    """Base of wrappers, known by `WRAPPERS.register(name)`: a strategy around a strategy, without a state of its own.

    Args:
        inner: the strategy it goes around.
        pool: frozen features.
        settings: an instance of `settings_class`; None: its defaults.
    """

    suffix: ClassVar[str] = ""
    """What stands behind the plus sign."""
    settings_class: ClassVar[type[Settings]] = Settings
    settings: Any

    def __init__(self, inner: AcquisitionFunction, pool: PoolReader, settings: Any = None) -> None:
        self.inner, self.pool = inner, pool
        self.settings = self.settings_class() if settings is None else settings
        self.name = f"{inner.name}+{self.suffix}"

    def warm_up(self) -> None:
        """Import what the strategy takes, if it says so."""
        getattr(self.inner, "warm_up", bool)()

    def propose(self, state: PoolState) -> Proposal:
        """Choose the query set. Raises what the strategy raises."""
        return self.inner.propose(state)

    def observe(self, feedback: Feedback) -> Observation:
        """Let the strategy learn."""
        return self.inner.observe(feedback)

    def utilities(self, state: PoolState) -> Float64Array | None:
        """The strategy's scores."""
        return self.inner.utilities(state)

    def state_dict(self) -> StateDict:
        """The strategy's state: what the wrapper does is a function of seed, round and samples."""
        return self.inner.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        """Continue to the same bits."""
        self.inner.load_state_dict(state)


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
