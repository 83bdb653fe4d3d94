"""The pseudo-labeler: UST scores streamed over the pool, then the cheap choice among them (BPLS)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.config.kinds import PSEUDO_SOURCES
from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.errors import ConfigError
from psp_ray.core.records import (
    FeatureBlock,
    Float16Array,
    Float32Array,
    Int32Array,
    Int64Array,
    PoolReader,
    PseudoLabels,
    TextState,
)
from psp_ray.core.topk import StreamingTopK
from psp_ray.neighbors.graph import Opinion, PoolGraph, knn_graph, propagate
from psp_ray.selftrain.bpls import Filling, fill, passes, within_cap
from psp_ray.selftrain.ust import BlockScores, score_views

Views = Callable[[Int64Array], Float16Array] | Float16Array
"""Fresh views: an array (u, L, d) for the unlabeled positions, or a function that gives (k, L, d) for some of them.

The function is called once a block, in block order, with the block's unlabeled positions; it must give the same
answer when it is asked again in the same round.
"""

NO_OPINION = Opinion(np.zeros(0, np.int32), np.zeros(0, np.float32))
"""Of a graph that is not asked."""

FILL_SPARE = 32
"""Candidates listed per class beyond its floor, for samples that are bought meanwhile or wanted by other classes."""


@dataclass(frozen=True)
class _Scores:
    """The teacher's opinion on all unlabeled samples, and what is needed to ask again."""

    round: int
    text: TextState
    views: Views | None
    positions: Int64Array
    labels: Int32Array
    confidence: Float32Array
    uncertainty: Float32Array
    candidates: StreamingTopK | None


class PseudoLabeler:
    """Pseudo-labels for the unlabeled part of a pool.

    Two ways to the same result: `label(..., rest, ...)` once the query set is known, or `label(..., unlabeled, ...)`
    beside the proposal and the oracle and then `drop(query set)`, which costs next to nothing.
    Keeps nothing from round to round but the graph, a function of the pool alone: of `graph_pool` where the views of
    `pool` are made anew each round.
    """

    def __init__(self, pool: PoolReader, settings: SelfTrainingSettings, graph_pool: PoolReader | None = None) -> None:
        self.pool = pool
        self.graph_pool = graph_pool or pool
        self.settings = settings
        self.source = PSEUDO_SOURCES.find(settings.pseudo_source)()
        self._graph: PoolGraph | None = None
        self._scores: _Scores | None = None

    def label(
        self,
        text: TextState,
        unlabeled: Int64Array,
        round: int,
        labeled: Int64Array | None = None,
        labels: Int32Array | None = None,
        views: Views | None = None,
    ) -> PseudoLabels:
        """Pseudo-labels kept among `unlabeled` (u,), sorted distinct positions.

        `labeled`, `labels` (m,): what has been bought so far, for the graph; before anything is bought it has no
        opinion and nothing is kept. `views`: fresh views instead of the pool's.
        Raises ConfigError where there are no views.
        """
        unlabeled = np.asarray(unlabeled, np.int64)
        if len(unlabeled) and ((np.diff(unlabeled) <= 0).any() or unlabeled[0] < 0 or unlabeled[-1] >= self.pool.n):
            raise ValueError(f"unlabeled must be sorted, distinct and within 0..{self.pool.n - 1}")
        if self.source.uses_graph:  # beside the oracle, rather than when its answer is there
            unlabeled = np.intersect1d(unlabeled, self.graph().positions, assume_unique=True)
        self._scores = self._score(text, unlabeled, round, views)
        return self._select(self._scores, np.zeros(0, np.int64), labeled, labels)

    def drop(
        self,
        positions: Int64Array,
        round: int,
        labeled: Int64Array | None = None,
        labels: Int32Array | None = None,
    ) -> PseudoLabels:
        """What `label` of this round gives without `positions` (any order): the query set, bought meanwhile.

        With a graph, `labeled` and `labels` may now hold this round's purchases too.
        Raises RuntimeError where `label` was not called for `round` before (say, after a restart).
        """
        if self._scores is None or self._scores.round != round:
            raise RuntimeError(f"drop: call label for round {round} first")
        return self._select(self._scores, np.unique(np.asarray(positions, np.int64)), labeled, labels)

    def graph(self) -> PoolGraph:
        """The pool's graph of nearest neighbors; computed once."""
        if self._graph is None:
            self._graph = knn_graph(
                self.graph_pool,
                neighbors=self.settings.graph_neighbors,
                power=self.settings.graph_power,
                limit=self.settings.graph_limit,
                whitening=self.settings.graph_whitening,
            )
        return self._graph

    # ---- scoring -----------------------------------------------------------------------------------------------

    def _score(self, text: TextState, unlabeled: Int64Array, round: int, views: Views | None) -> _Scores:
        floor, n_classes = self.settings.pseudo_floor, len(text.features)
        candidates = StreamingTopK(n_classes, floor + FILL_SPARE) if floor else None
        parts: list[BlockScores] = []
        for positions, rows, scores in self._stream(text, unlabeled, views, probabilities=floor > 0):
            part = BlockScores(scores.labels[rows], scores.confidence[rows], scores.uncertainty[rows], None)
            parts.append(part)
            if candidates is not None and scores.probabilities is not None:
                values = scores.probabilities[rows].T
                if not self.source.uses_graph:
                    # Kept samples are no candidates; with a graph, who is kept depends on labels still to come.
                    kept = passes(part.confidence, part.uncertainty, self.settings)
                    values = np.where(kept[None, :], -np.inf, values)
                candidates.offer(np.ascontiguousarray(values), positions)
        return _Scores(
            round,
            text,
            views,
            unlabeled,
            _join([part.labels for part in parts], np.int32),
            _join([part.confidence for part in parts], np.float32),
            _join([part.uncertainty for part in parts], np.float32),
            candidates,
        )

    def _stream(
        self, text: TextState, unlabeled: Int64Array, views: Views | None, *, probabilities: bool
    ) -> Iterator[tuple[Int64Array, Int64Array, BlockScores]]:
        """For each block with unlabeled samples: their positions, their rows in the block, the block's scores."""
        for index in range(self.pool.n_blocks):
            block = self.pool.block(index, views=views is None)
            lo, hi = np.searchsorted(unlabeled, [block.start, block.start + len(block.keys)])
            if lo == hi:
                continue
            positions = unlabeled[lo:hi]
            rows = positions - block.start
            wanted = np.zeros(len(block.keys), bool)
            wanted[rows] = True
            fresh = None
            if views is not None:
                fresh = views(positions) if callable(views) else views[lo:hi]
            scores = score_views(
                self._views_of(block, rows, fresh),
                text,
                uncertainty=self.settings.uncertainty,
                probabilities=probabilities,
                wanted=wanted,
            )
            yield positions, rows, scores

    def _views_of(self, block: FeatureBlock, rows: Int64Array, fresh: Float16Array | None) -> NDArray[Any]:
        """All views (m, L, d) of a block; fresh ones stand in their rows, so that sums don't depend on who is asked."""
        m, dim = block.features.shape
        found = block.views
        if fresh is not None:
            if fresh.shape[0] != len(rows) or fresh.shape[2] != dim:
                raise ValueError(f"fresh views have shape {fresh.shape}, expected ({len(rows)}, L, {dim})")
            found = np.zeros((m, fresh.shape[1], dim), fresh.dtype)
            found[rows] = fresh
        if found is None:
            found = np.zeros((m, 0, dim), block.features.dtype)
        if self.settings.include_center:
            found = np.concatenate([block.features[:, None, :], found], axis=1)
        if found.shape[1] == 0:
            raise ConfigError("views: self-training needs at least one view; set views to 5, or include_center")
        return found

    # ---- choosing ----------------------------------------------------------------------------------------------

    def _select(
        self, scores: _Scores, dropped: Int64Array, labeled: Int64Array | None, labels: Int32Array | None
    ) -> PseudoLabels:
        settings = self.settings
        graph = Opinion(*self.opinion(scores.positions, labeled, labels)) if self.source.uses_graph else NO_OPINION
        opinion = self.source.choose(Opinion(scores.labels, scores.confidence), graph)
        left = ~np.isin(scores.positions, dropped, assume_unique=True) & (opinion.labels >= 0)
        index = np.flatnonzero(left & passes(opinion.confidence, scores.uncertainty, settings))
        position, label = scores.positions[index], opinion.labels[index]
        confidence, uncertainty = opinion.confidence[index], scores.uncertainty[index]
        chosen = within_cap(label, confidence, position, settings.pseudo_cap)
        columns: list[NDArray[Any]] = [position[chosen], label[chosen], confidence[chosen], uncertainty[chosen]]
        count = np.bincount(label, minlength=len(scores.text.features))
        lacking = np.maximum(settings.pseudo_floor - count, 0)
        if lacking.any():
            blocked = np.union1d(position, dropped)
            filling = self._fill(scores, lacking, blocked)
            at = np.searchsorted(scores.positions, filling.positions)
            added: list[NDArray[Any]] = [
                filling.positions,
                filling.labels,
                filling.probabilities,
                scores.uncertainty[at],
            ]
            columns = [np.concatenate(pair) for pair in zip(columns, added, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        return PseudoLabels(
            columns[0][order].astype(np.int64),
            columns[1][order].astype(np.int32),
            columns[2][order].astype(np.float32),
            columns[3][order].astype(np.float32),
        )

    def opinion(
        self, positions: Int64Array, labeled: Int64Array | None, labels: Int32Array | None
    ) -> tuple[Int32Array, Float32Array]:
        """What bought labels say about samples of the graph (-1: nothing), and how surely; both (k,)."""
        if labeled is None or labels is None or len(labeled) == 0:
            return np.full(len(positions), -1, np.int32), np.zeros(len(positions), np.float32)
        graph, seeds = self.graph().with_labeled(np.asarray(labeled, np.int64))
        opinion = propagate(graph, seeds, labels, alpha=self.settings.graph_alpha, balance=self.settings.graph_balance)
        rows = np.searchsorted(self.graph().positions, positions)
        return opinion.labels[rows], opinion.confidence[rows]

    def _fill(self, scores: _Scores, lacking: Int64Array, blocked: Int64Array) -> Filling:
        assert scores.candidates is not None
        classes = np.arange(len(lacking), dtype=np.int64)
        filling = fill(lacking, classes, scores.candidates, blocked)
        listed = scores.candidates.k
        while len(filling.short):
            # Rare: other classes or the query set took what was listed. Ask again for longer lists, of the classes
            # that lack something. Lists as long as all that is lacking together can't run out.
            classes = np.flatnonzero(lacking > 0)
            listed = min(4 * listed, int(lacking.sum()))
            candidates = StreamingTopK(len(classes), listed)
            for positions, rows, block in self._stream(scores.text, scores.positions, scores.views, probabilities=True):
                assert block.probabilities is not None
                free = ~np.isin(positions, blocked, assume_unique=True)
                values = block.probabilities[rows[free]][:, classes].T
                candidates.offer(np.ascontiguousarray(values), positions[free])
            filling = fill(lacking, classes, candidates, blocked)
        return filling


def _join(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
