"""The policy's prior `coverage`: which samples together show most of what is still uncertain in the pool.

Eight rounds teach a fresh policy little; a prior says where to look first. Uncertainty-weighted coverage, as in Bae et
al., "Uncertainty herding: one active learning method for all label budgets" (ICLR 2025), greedy as in generalized
coverage (their "MaxHerding", 2024): with similarities `k(x, s) = exp(-(1 - x . s) / sigma)` in the space of
`psp_ray.neighbors.space`, choose one after the other the sample that adds most to

    sum_x weight_x * max over labeled and chosen s of k(x, s).

The objective is submodular, so lazy evaluation finds the greedy choice exactly (Minoux, 1978). The weight (ours) is the
chance that teacher and graph name different classes, `1 - sum_c p_teacher(c | x) p_graph(c | x)`, where the graph is
the label propagation of self-training: where two opinions of different kind agree, a label teaches little. Where the
posterior of self-training is at hand, it is the geometric mean of that and of the posterior's own doubt,
`1 - max_c p(c | x)`.

Before anything is labeled all weights are 1, and the kernel is another one (ours), the sum of two. One is wide and on
the plain encodings, `exp(-(1 - x . s) / (2 mean(1 - x . x')))`; being nearly linear, it asks for what k-medoids does,
samples typical of large groups. The other is label propagation's own reach, the correlations of `(I - alpha S)^-1`.

Larger pools are judged on `coverage_limit` unlabeled samples, drawn anew each round, and on at most half as many
labeled ones (all of them cover). Memory: about 20 bytes times the square of their number.
"""

from __future__ import annotations

import heapq

import numpy as np

from psp_ray.config.policy import PolicySettings
from psp_ray.core.pool import finite
from psp_ray.core.probability import class_probabilities
from psp_ray.core.records import (
    BLOCK_SIZE,
    Float32Array,
    Float64Array,
    Int32Array,
    Int64Array,
    PoolReader,
    PoolState,
    TextState,
)
from psp_ray.neighbors.graph import class_masses, neighbor_graph, reach
from psp_ray.neighbors.space import ImageSpace, averaged, subset, unit

SPREAD_NEIGHBOR = 8
"""sigma is `coverage_width` times the mean distance to the neighbor of this rank."""
FIRST_REACH = 0.1
"""Weight of the reach over the graph in the first round, where both kernels are scaled to a mean of 1."""


class Coverage:
    """Plans query sets over a pool; its embedding of the pool is computed once."""

    def __init__(self, pool: PoolReader, settings: PolicySettings) -> None:
        self.pool, self.settings = pool, settings
        self._space: ImageSpace | None = None
        self._whole: tuple[Float32Array, Float32Array] | None = None

    def plan(self, state: PoolState) -> tuple[Int64Array, Float64Array]:
        """Anchors of a round, sorted positions (k,), k <= 2 n_query, and their log odds (k,) float64.

        The first `n_query` greedy choices each outweigh all n unlabeled samples of log odds 0 together by a factor
        `exp(prior_weight)`; those behind fade by `coverage_fade`, so that the policy can exchange some.
        """
        order = self.order(state, min(2 * state.n_query, len(state.unlabeled)))
        behind = np.maximum(np.arange(len(order)) + 1 - state.n_query, 0) / state.n_query
        odds = np.log(len(state.unlabeled)) + self.settings.prior_weight - self.settings.coverage_fade * behind
        by_position = np.argsort(order)
        return order[by_position], odds[by_position]

    def order(self, state: PoolState, k: int) -> Int64Array:
        """The first `k` greedy choices among the unlabeled, as positions: fewer where `coverage_limit` is less."""
        limit = self.settings.coverage_limit
        chosen = subset(self.pool, state.unlabeled, limit, "coverage", round=state.round)
        if not len(state.labeled) and self.settings.coverage_first_width > 0:
            return chosen[self._first(chosen, k)]
        known = np.arange(len(state.labeled))
        if len(known) > limit // 2:
            some = subset(self.pool, np.sort(state.labeled), limit // 2, "coverage-labeled", round=state.round)
            known = np.flatnonzero(np.isin(state.labeled, some))
        places, encodings = self._embed(np.concatenate([chosen, state.labeled[known]]))
        m = len(chosen)
        distances = 1.0 - places @ places.T
        np.maximum(distances, 0.0, out=distances)
        rank = min(SPREAD_NEIGHBOR, len(distances) - 1)
        near = np.partition(distances, rank, axis=1)[:, rank]
        width = self.settings.coverage_width * float(near.mean(dtype=np.float64))
        similar = np.exp(distances * np.float32(-1.0 / max(width, 1e-6)), out=distances)
        weight = np.ones(len(places))
        if len(state.labeled) and self.settings.coverage_weight != "uniform":
            weight = disagreement(places, encodings, state.text, m, state.labels[known])
            if self.settings.coverage_weight == "posterior" and state.doubt is not None:
                weight[:m] = np.sqrt(weight[:m] * state.doubt[chosen])
                weight[m:] = 0.0
        covered = similar[:, m:].max(axis=1, initial=0.0)
        others = np.setdiff1d(np.arange(len(state.labeled)), known)
        for at in range(0, len(others), BLOCK_SIZE):
            far = 1.0 - places @ self._embed(state.labeled[others[at : at + BLOCK_SIZE]])[0].T
            near_one = np.maximum(far.min(axis=1), 0.0)
            np.maximum(covered, np.exp(near_one * np.float32(-1.0 / max(width, 1e-6))), out=covered)
        return chosen[greedy(similar[:, :m], weight.astype(np.float32), covered, k)]

    def _first(self, positions: Int64Array, k: int) -> Int64Array:
        """The first `k` greedy choices among samples at `positions` (m,) before anything is labeled, as rows of these.

        O(m^3) time for the reach over the graph.
        """
        rows = unit(finite(self.pool.rows(positions).astype(np.float32), positions))
        distances = 1.0 - rows @ rows.T
        np.maximum(distances, 0.0, out=distances)
        width = self.settings.coverage_first_width * float(distances.mean(dtype=np.float64))
        similar = np.exp(distances * np.float32(-1.0 / max(width, 1e-6)), out=distances)
        spread = float((similar.mean(axis=1, dtype=np.float64) - similar.min(axis=1)).mean())
        similar /= np.float32(max(spread, 1e-6))
        near = reach(neighbor_graph(self._embed(positions)[0]))
        near *= np.float32(FIRST_REACH / float(near.mean(dtype=np.float64)))
        similar += near
        return greedy(similar, np.ones(len(rows), np.float32), np.zeros(len(rows), np.float32), k)

    def _embed(self, positions: Int64Array) -> tuple[Float32Array, Float32Array]:
        """Places in the image space and averaged encodings, each (k, d), of positions (k,)."""
        pool = self.pool
        small = pool.n <= self.settings.coverage_limit
        if self._space is None:
            self._space = ImageSpace.fit(pool, whitening=self.settings.coverage_whitening, views=small)
        if not small:  # views of scattered samples would mean reading all of them
            rows = finite(pool.rows(positions).astype(np.float32), positions)
            return self._space.place(rows), rows
        if self._whole is None:
            views = self._space.views
            rows = np.concatenate([averaged(pool.block(i, views=views), views) for i in range(pool.n_blocks)])
            self._whole = self._space.place(rows), rows
        return self._whole[0][positions], self._whole[1][positions]


def disagreement(
    places: Float32Array, encodings: Float32Array, text: TextState, m: int, labels: Int32Array
) -> Float64Array:
    """`1 - sum_c p_teacher p_graph` (k,) of k samples, the first `m` unlabeled, the rest labeled with `labels`."""
    teacher = class_probabilities(encodings, text.features, text.logit_scale, text.bias)
    graph = neighbor_graph(places)
    mass = class_masses(graph, np.arange(m, len(places)), labels, len(text.features))
    total = mass.sum(axis=1, keepdims=True)
    opinion = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
    result: Float64Array = 1.0 - (teacher * opinion).sum(axis=1)
    return result


def greedy(similar: Float32Array, weight: Float32Array, covered: Float32Array, k: int) -> Int64Array:
    """Columns (k,) of `similar` (m, c) that greedily raise `sum_x weight_x max(covered_x, similar_xs)`.

    Ties go to the lower column. Lazy: a stale gain bounds the true one from above.
    """
    covered = covered.copy()
    gains = np.concatenate(
        [
            weight @ np.maximum(similar[:, at : at + BLOCK_SIZE // 4] - covered[:, None], 0.0)
            for at in range(0, similar.shape[1], BLOCK_SIZE // 4)
        ]
        or [np.zeros(0, np.float32)]
    )
    heap = [(-float(gain), column) for column, gain in enumerate(gains)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < k:
        _, column = heap[0]
        fresh = -float(weight @ np.maximum(similar[:, column] - covered, 0.0))
        following = min(heap[1:3], default=None)
        if following is None or (fresh, column) <= following:
            heapq.heappop(heap)
            chosen.append(column)
            np.maximum(covered, similar[:, column], out=covered)
        else:
            heapq.heapreplace(heap, (fresh, column))
    return np.array(chosen, np.int64)
