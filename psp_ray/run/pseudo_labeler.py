"""The pseudo-labeler as a component: every call depends on its arguments alone, in whatever order they come."""

from __future__ import annotations

import numpy as np

from psp_ray.core.records import Float32Array, Int64Array, PoolReader, PseudoLabels, TextState
from psp_ray.run.inputs import PseudoLabelerInput
from psp_ray.run.views import FreshPool, FreshSource, ViewProgress, ViewsOnDemand
from psp_ray.selftrain.near import confidences, near_decision
from psp_ray.selftrain.records import KnownLabels, ScoreRequest, Scores, SoftTargets
from psp_ray.selftrain.scoring import Views
from psp_ray.selftrain.service import PseudoLabeler


class PseudoLabelerComponent:
    """Pseudo-labels over views from the cache, made anew each round (`fresh`), or encoded on demand (with a store).

    `score` needs no labels, so that it can run beside the oracle; `select` does. With views on demand, `worth_views`
    says first which samples are to be scored at all, and `encode_views` makes their views, a portion at a time.
    """

    def __init__(self, given: PseudoLabelerInput, pool: PoolReader, fresh: FreshSource | None = None):
        self._pool, self._settings, self._view_count = pool, given.settings, given.view_count
        self._fresh = fresh if given.store is None else None
        self._on_demand: ViewsOnDemand | None = None
        if given.store is not None and fresh is not None:
            self._on_demand = ViewsOnDemand(fresh, given.store, given.view_count, pool.dim)
        self._labeler = PseudoLabeler(pool, given.settings)

    def worth_views(self, request: ScoreRequest, known: KnownLabels, taken: Int64Array) -> Int64Array:
        """Sorted positions among those requested, but for `taken`, that can become pseudo-labels.

        Where the teacher is the source it says so itself, whatever is known or taken.
        """
        source = self._labeler.source
        if not source.waits_for_labels:
            sure = confidences(self._pool, request.text, request.positions)
            return near_decision(request.positions, *sure, self._settings)
        rest = np.setdiff1d(request.positions, taken, assume_unique=True)
        if source.weighs_evidence:
            if not len(known.positions):
                return rest[:0]
            return near_decision(rest, *self._labeler.posterior(request.text, known).likeliest(rest), self._settings)
        rest = np.intersect1d(rest, self._labeler.graph().positions, assume_unique=True)
        opinion = self._labeler.opinion(rest, known)
        return near_decision(rest, opinion.labels, opinion.confidence, self._settings)

    def encode_views(self, positions: Int64Array) -> ViewProgress:
        """Encode and keep a portion of the views on demand that `positions` lack."""
        return ViewProgress(0, 0) if self._on_demand is None else self._on_demand.encode_some(positions)

    def score(self, request: ScoreRequest) -> Scores:
        """The teacher's opinion on the requested samples. Raises as `PseudoLabeler.score`."""
        return self._labeler.score(request, *self._views_of(request.round))

    def select(self, scores: Scores, known: KnownLabels, taken: Int64Array) -> PseudoLabels:
        """Pseudo-labels among the scored samples but for those `taken`: the query set, which the oracle answers.

        `known`: the labels to build on, this round's included, or fewer to see what pseudo-labels owe to the others.
        """
        return self._labeler.select(scores, known, taken, *self._views_of(scores.round))

    def doubt(self, zero_shot: TextState, known: KnownLabels) -> Float32Array:
        """Where the posterior doubts its likeliest class, (n,) for the whole pool: what query sets are to look at."""
        return self._labeler.doubt(zero_shot, known)

    def soft_labels(self, zero_shot: TextState, known: KnownLabels, folds: int) -> SoftTargets:
        """The posterior for heads to learn from, and what it would be without each of `folds` parts of the labels."""
        return self._labeler.soft_labels(zero_shot, known, folds)

    def _views_of(self, round: int) -> tuple[Views | None, PoolReader | None]:
        """What stands in for the pool's views, or for the whole pool, in a round."""
        if self._fresh is None and self._on_demand is None and not self._pool.n_views:
            return lambda positions: self._pool.rows(positions)[:, None, :], None  # embeddings without views
        fresh = None if self._fresh is None else FreshPool(self._pool, self._fresh, self._view_count, round)
        return self._on_demand, fresh
