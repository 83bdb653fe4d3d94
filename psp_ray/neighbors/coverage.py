"""The policy's prior `coverage`: which samples together show most of what is still uncertain in the pool.

Eight rounds teach a fresh policy little; a prior says where to look first. Uncertainty-weighted coverage, as in Bae et
al., "Uncertainty herding: one active learning method for all label budgets" (ICLR 2025), greedy as in generalized
coverage (their "MaxHerding", 2024): choose one after the other the sample that adds most to

    sum_x weight_x * max over labeled and chosen s of k(x, s).

The objective is submodular, so lazy evaluation finds the greedy choice exactly (Minoux, 1978).

The kernel (ours) is label propagation's own reach: the correlations of `(I - alpha S)^-1` over the graph of nearest
neighbors, so that a sample covers those that its label will tell something about. `coverage_kernel: distance` has
`k(x, s) = exp(-(1 - x . s) / sigma)` in the space of `psp_ray.neighbors.space` instead, `both` the sum of the two.
Before anything is labeled a wide kernel on the plain encodings, `exp(-(1 - x . s) / (2 mean(1 - x . x')))`, takes the
place of distances, and the reach counts a tenth beside it; being nearly linear, the wide one asks for what k-medoids
does, samples typical of large groups.

The weight (ours) is the chance that teacher and graph name different classes, `1 - sum_c p_teacher(c | x) p_graph(c |
x)`, where the graph is the label propagation of self-training: where two opinions of different kind agree, a label
teaches little. Where the posterior of self-training is at hand, it is the geometric mean of that and of the posterior's
own doubt, `1 - max_c p(c | x)`. Before anything is labeled all weights are 1.

Larger pools are judged on `coverage_limit` unlabeled samples, drawn anew each round, and on at most half as many
labeled ones; the other labeled ones stand with the nearest of all these. O(m^3) time for m samples, once a run where
these are the whole pool, and about 24 m^2 bytes. Of a large pool (`psp_ray.neighbors.cells`) the samples are members of
all its cells, drawn by their doubt, and count by the mass that they stand for; the doubt of the posterior alone, known
of every sample, is their weight where there is one.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

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
from psp_ray.neighbors.cells import cells_of, draw_members, is_large
from psp_ray.neighbors.graph import Graph, class_masses, neighbor_graph, reach
from psp_ray.neighbors.space import ImageSpace, averaged, subset, unit

SPREAD_NEIGHBOR = 8
"""sigma is `coverage_width` times the mean distance to the neighbor of this rank."""
FIRST_REACH = 0.1
"""Weight of the reach over the graph in the first round, where both kernels are scaled to a mean of 1."""


@dataclass(frozen=True)
class Scene:
    """What is looked at: sorted `positions` (m,), their `places` and averaged `encodings`, both (m, d), the
    `graph` over them, and `similar` (m, m): how much the one in a row is covered by the one in a column."""

    positions: Int64Array
    places: Float32Array
    encodings: Float32Array
    graph: Graph
    similar: Float32Array

    def rows(self, positions: Int64Array) -> Int64Array:
        """Where `positions` (k,) stand."""
        return np.searchsorted(self.positions, positions)


class Coverage:
    """Plans query sets over a pool; what it knows of a pool that it sees as a whole is computed once."""

    def __init__(self, pool: PoolReader, settings: PolicySettings) -> None:
        self.pool, self.settings = pool, settings
        self._space: ImageSpace | None = None
        self._whole: Scene | None = None

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
        large = is_large(self.pool.n, state.n_classes) and len(state.unlabeled) > limit
        chosen, mass = self._members(state) if large else (self._some(state), np.ones(0, np.float32))
        known, most = np.arange(len(state.labeled)), limit // (8 if large else 2)
        if len(known) > most:
            some = subset(self.pool, np.sort(state.labeled), most, "coverage-labeled", round=state.round)
            known = np.flatnonzero(np.isin(state.labeled, some))
        scene = self._scene(np.union1d(chosen, state.labeled[known]))
        at, seeds = scene.rows(chosen), scene.rows(state.labeled[known])
        similar = scene.similar[np.ix_(at, at)]
        if not len(state.labeled):
            if self.settings.coverage_first_width > 0:
                similar = self._typical(scene, at)
            equal = mass if large else np.ones(len(at), np.float32)
            return chosen[greedy(similar, equal, np.zeros(len(at), np.float32), k)]
        weight = np.ones(len(at))
        if large and state.doubt is not None and self.settings.coverage_weight == "posterior":
            weight = state.doubt[chosen].astype(np.float64)
        elif self.settings.coverage_weight != "uniform":
            weight = disagreement(scene.graph, scene.encodings, state.text, seeds, state.labels[known])[at]
            if self.settings.coverage_weight == "posterior" and state.doubt is not None:
                weight = np.sqrt(weight * state.doubt[chosen])
        if large:
            weight = weight * mass
        others = np.setdiff1d(np.arange(len(state.labeled)), known)
        seeds = np.union1d(seeds, self._nearest(scene, state.labeled[others]))
        covered = np.zeros(len(at), np.float32)
        for start in range(0, len(seeds), BLOCK_SIZE):
            part = scene.similar[np.ix_(at, seeds[start : start + BLOCK_SIZE])]
            np.maximum(covered, part.max(axis=1), out=covered)
        return chosen[greedy(similar, weight.astype(np.float32), covered, k)]

    def _some(self, state: PoolState) -> Int64Array:
        return subset(self.pool, state.unlabeled, self.settings.coverage_limit, "coverage", round=state.round)

    def _worth(self, state: PoolState) -> Float32Array | None:
        """The doubt of each unlabeled sample, where that is to be covered and known."""
        wanted = self.settings.coverage_weight == "posterior" and len(state.labeled) and state.doubt is not None
        return state.doubt[state.unlabeled] if wanted and state.doubt is not None else None

    def _members(self, state: PoolState) -> tuple[Int64Array, Float32Array]:
        """Samples of a large pool to choose from, from all cells, and the mass that each stands for, of mean 1."""
        cells = cells_of(self.pool, whitening=self.settings.coverage_whitening)
        found = draw_members(
            cells,
            self.settings.coverage_limit,
            "coverage",
            among=state.unlabeled,
            worth=self._worth(state),
            round=state.round,
        )
        return found.positions, found.mass / found.mass.mean()

    def _typical(self, scene: Scene, at: Int64Array) -> Float32Array:
        """A wide kernel (m, m) on the plain encodings of a scene's rows `at` (m,), and some of the reach between them.

        Where both kernels cover, the one of distances is left out here: the wide one says the same, and better.
        """
        similar, positions = scene.similar, scene.positions[at]
        if self.settings.coverage_kernel == "both":
            similar = similar - _scaled(self._by_distance(scene.places))
        similar = similar[np.ix_(at, at)]
        distances = _distances(unit(finite(self.pool.rows(positions).astype(np.float32), positions)))
        wide = _decay(distances, self.settings.coverage_first_width * float(distances.mean(dtype=np.float64)))
        spread = float((wide.mean(axis=1, dtype=np.float64) - wide.min(axis=1)).mean())
        wide /= np.float32(max(spread, 1e-6))
        share = np.float32(FIRST_REACH / max(float(similar.mean(dtype=np.float64)), 1e-12))
        wide += share * similar
        return wide

    def _nearest(self, scene: Scene, positions: Int64Array) -> Int64Array:
        """Rows of a scene for samples at `positions` (k,): their own where it is the whole pool, else their nearest."""
        if scene is self._whole:
            return scene.rows(positions)
        found = [np.zeros(0, np.int64)]
        for start in range(0, len(positions), BLOCK_SIZE):
            places = self._embed(positions[start : start + BLOCK_SIZE])[0]
            found.append((places @ scene.places.T).argmax(axis=1))
        return np.concatenate(found)

    def _scene(self, positions: Int64Array) -> Scene:
        """The scene of sorted `positions` (m,), or of the whole pool where that is small enough."""
        whole = self.pool.n <= self.settings.coverage_limit
        if whole and self._whole is not None:
            return self._whole
        positions = np.arange(self.pool.n, dtype=np.int64) if whole else positions
        places, encodings = self._embed(positions)
        graph = neighbor_graph(places)
        kernels = []
        if self.settings.coverage_kernel != "distance":
            kernels.append(reach(graph))
        if self.settings.coverage_kernel != "reach":
            kernels.append(self._by_distance(places))
        similar = _scaled(kernels.pop())
        for kernel in kernels:
            similar += _scaled(kernel)
        scene = Scene(positions, places, encodings, graph, similar)
        self._whole = scene if whole else None
        return scene

    def _by_distance(self, places: Float32Array) -> Float32Array:
        distances = _distances(places)
        rank = min(SPREAD_NEIGHBOR, len(distances) - 1)
        near = np.partition(distances, rank, axis=1)[:, rank]
        return _decay(distances, self.settings.coverage_width * float(near.mean(dtype=np.float64)))

    def _embed(self, positions: Int64Array) -> tuple[Float32Array, Float32Array]:
        """Places in the image space and averaged encodings, each (k, d), of positions (k,); all of a small pool's."""
        pool = self.pool
        small = pool.n <= self.settings.coverage_limit
        if self._space is None and is_large(pool.n):
            self._space = cells_of(pool, whitening=self.settings.coverage_whitening).space
        if self._space is None:
            self._space = ImageSpace.fit(pool, whitening=self.settings.coverage_whitening, views=small)
        if small:  # asked for all of it, once
            views = self._space.views
            rows = np.concatenate([averaged(pool.block(i, views=views), views) for i in range(pool.n_blocks)])
        else:  # views of scattered samples would mean reading all of them
            rows = finite(pool.rows(positions).astype(np.float32), positions)
        return self._space.place(rows), rows


def _scaled(kernel: Float32Array) -> Float32Array:
    """A kernel at a mean of 1, in its place."""
    kernel /= np.float32(max(float(kernel.mean(dtype=np.float64)), 1e-12))
    return kernel


def _distances(rows: Float32Array) -> Float32Array:
    """`1 - x . y` (m, m) of unit vectors (m, d), at least 0."""
    distances: Float32Array = 1.0 - rows @ rows.T
    np.maximum(distances, 0.0, out=distances)
    return distances


def _decay(distances: Float32Array, width: float) -> Float32Array:
    """`exp(-distances / width)`, in their place."""
    result: Float32Array = np.exp(distances * np.float32(-1.0 / max(width, 1e-6)), out=distances)
    return result


def disagreement(
    graph: Graph, encodings: Float32Array, text: TextState, rows: Int64Array, labels: Int32Array
) -> Float64Array:
    """`1 - sum_c p_teacher p_graph` (n,) of a graph's n samples, of which those in `rows` (m,) have `labels` (m,)."""
    teacher = class_probabilities(encodings, text.features, text.logit_scale, text.bias)
    mass = class_masses(graph, rows, labels, len(text.features))
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
    shown = np.ascontiguousarray(similar.T)  # a column is asked for again and again
    heap = [(-float(gain), column) for column, gain in enumerate(gains)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < k:
        _, column = heap[0]
        fresh = -float(weight @ np.maximum(shown[column] - covered, 0.0))
        following = min(heap[1:3], default=None)
        if following is None or (fresh, column) <= following:
            heapq.heappop(heap)
            chosen.append(column)
            np.maximum(covered, shown[column], out=covered)
        else:
            heapq.heapreplace(heap, (fresh, column))
    return np.array(chosen, np.int64)
