"""Clusters and densities of a pool, streamed: k-means by scikit-learn, nearest neighbors by blocks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from psp_ray.core import noise
from psp_ray.core.pool import read_blocks
from psp_ray.core.records import BLOCK_SIZE, Float32Array, Float64Array, Int64Array, PoolReader, UInt64Array

SAMPLE = 20_000
"""Samples from which centers are learned; larger pools are assigned to centers learned from a part."""
NEIGHBORS_AMONG = 10_000
"""Samples among which neighbors are sought."""
_STEPS, _FEW_STEPS, _MANY_CLUSTERS = 100, 10, 500


@dataclass(frozen=True)
class Clusters:
    """`labels` (n,) int64 of the samples asked for, `distances` (n,) to their centers, `centers` (k, d)."""

    labels: Int64Array
    distances: Float64Array
    centers: Float32Array


def cluster(
    pool: PoolReader,
    positions: Int64Array,
    count: int,
    seed: int,
    transform: Callable[[Float32Array], Float32Array] | None = None,
) -> Clusters:
    """k-means of the sorted `positions` in `count` clusters (fewer where there are fewer distinct points).

    Up to 20,000 samples take part in learning the centers (drawn by noise on their names where there are more); then
    all are assigned, block by block. `transform` maps features (m, d) to what is clustered. One thread, so that sums
    don't depend on the number of threads. O(n count d) time; memory 20,000 * d * 4 bytes and a block.
    """
    words = np.concatenate([noise.bits(seed, "clusters", block.keys) for block in read_blocks(pool, positions)])
    part = np.ones(len(positions), bool)
    if len(positions) > SAMPLE:
        part = np.zeros(len(positions), bool)
        part[np.lexsort((np.arange(len(words)), words))[:SAMPLE]] = True
    change = transform or (lambda features: features)
    learned = [change(block.features) for block in read_blocks(pool, positions[part])]
    centers = centers_of(np.concatenate(learned), count, seed)
    squares = np.einsum("ij,ij->i", centers, centers, dtype=np.float64)
    labels, distances = [], []
    for block in read_blocks(pool, positions):
        x = change(block.features)
        found = squares - 2.0 * (x @ centers.T)
        best = found.argmin(axis=1)
        labels.append(best)
        least = found[np.arange(len(x)), best] + np.einsum("ij,ij->i", x, x, dtype=np.float64)
        distances.append(np.sqrt(np.maximum(least, 0.0)))
    return Clusters(np.concatenate(labels), np.concatenate(distances), centers)


def centers_of(x: Float32Array, count: int, seed: int) -> Float32Array:
    """Centers (k, d) of k-means of x (n, d), k <= count; k-means++ start, one run, `seed` names the noise."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    count = min(count, len(x))
    steps = _STEPS if count <= _MANY_CLUSTERS else _FEW_STEPS
    model = KMeans(count, n_init=1, max_iter=steps, random_state=noise.stream_key(seed, "k-means") % 2**32)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # copies: some centers coincide and stay empty
        model.fit(x)
    return np.asarray(model.cluster_centers_, np.float32)


def mean_neighbor_distance(x: Float32Array, neighbors: int, keys: UInt64Array, seed: int) -> Float64Array:
    """Mean Euclidean distance (m,) of each row of x (m, d) to its `neighbors` nearest others (fewer if m is small).

    Zeros for a single row. Exact up to m = 10,000; then neighbors are sought among 10,000 rows drawn by noise on
    `keys` (m,). O(m min(m, 10,000) d) time.
    """
    m = len(x)
    if m < 2 or neighbors < 1:
        return np.zeros(m)
    among = np.arange(m)
    if m > NEIGHBORS_AMONG:
        among = np.sort(np.lexsort((keys, noise.bits(seed, "neighbors", keys)))[:NEIGHBORS_AMONG])
    others = x[among]
    squares = np.einsum("ij,ij->i", others, others, dtype=np.float64)
    k = min(neighbors, len(among) - 1)
    result = np.empty(m)
    step = BLOCK_SIZE // 4
    for at in range(0, m, step):
        rows = np.arange(at, min(m, at + step))
        own = np.einsum("ij,ij->i", x[rows], x[rows], dtype=np.float64)
        distances = own[:, None] + squares[None, :] - 2.0 * (x[rows] @ others.T)
        distances[rows[:, None] == among[None, :]] = np.inf  # nobody is its own neighbor
        nearest = np.partition(distances, k - 1, axis=1)[:, :k]
        result[rows] = np.sqrt(np.maximum(nearest, 0.0)).mean(axis=1)
    return result


def representatives(found: Clusters) -> Int64Array:
    """Index of the sample nearest to each center, in the order of clusters that have any; ties to the lower index."""
    order = np.lexsort((np.arange(len(found.labels)), found.distances, found.labels))
    return np.asarray(order[np.unique(found.labels[order], return_index=True)[1]], np.int64)


class Queues:
    """The samples of each cluster that are `free` (n,), nearest to the center first; ties to the lower index."""

    def __init__(self, found: Clusters, free: np.ndarray) -> None:
        count = int(found.labels.max()) + 1 if len(found.labels) else 0
        order = np.lexsort((np.arange(len(found.labels)), found.distances, found.labels))
        self._order = order[free[order]]
        self._at = np.searchsorted(found.labels[self._order], np.arange(count))
        self._end = np.searchsorted(found.labels[self._order], np.arange(count), side="right")

    def left(self, index: int) -> int:
        """How many samples the cluster still has."""
        return int(self._end[index] - self._at[index])

    def pop(self, index: int) -> int:
        """The next sample of a cluster that has any left."""
        self._at[index] += 1
        return int(self._order[self._at[index] - 1])


class Coverage:
    """Which cluster is served next: the one with fewest labels, bought or just chosen; of those the largest.

    `labels` (n,): each sample's cluster; `free` (n,): who can be chosen; `labeled` (n,): who has a label.
    """

    def __init__(self, labels: Int64Array, free: np.ndarray, labeled: np.ndarray) -> None:
        count = int(labels.max()) + 1 if len(labels) else 0
        self.sizes = np.bincount(labels, minlength=count)
        self.served = np.bincount(labels[labeled], minlength=count)
        self.left = np.bincount(labels[free], minlength=count)

    def next(self) -> int:
        """The cluster to choose from; -1 where nothing is left. Ties go to the lower cluster."""
        open_ = np.flatnonzero(self.left > 0)
        if not len(open_):
            return -1
        order = np.lexsort((open_, -self.sizes[open_], self.served[open_]))
        return int(open_[order[0]])

    def take(self, index: int) -> None:
        """One sample of the cluster was chosen."""
        self.served[index] += 1
        self.left[index] -= 1
