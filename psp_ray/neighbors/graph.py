"""A second, structural opinion: bought labels propagated over the nearest-neighbor graph of the image features.

Zhou et al., "Learning with local and global consistency" (NIPS 2003): `F = (1 - alpha) (I - alpha S)^-1 Y` with
`S = D^-1/2 W D^-1/2`; edge weights and conjugate gradients as in Iscen et al., "Label propagation for deep
semi-supervised learning" (CVPR 2019): each image has directed edges of weight max(cos, 0)^power to its k nearest
others, `W = A + A'`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import scipy  # its parts are imported where they are first used
from numpy.typing import NDArray

from psp_ray.core.pool import block_spans
from psp_ray.core.records import BLOCK_SIZE, Float32Array, Float64Array, Int32Array, Int64Array, PoolReader
from psp_ray.core.topk import StreamingTopK
from psp_ray.neighbors.space import ImageSpace, subset

_COLUMN_ENTRIES = 1 << 23  # float64 entries of one right-hand side matrix in work at a time (64 MiB)
_TOLERANCE = 1e-6
_MOST_STEPS = 2000
_TILE = 256  # rows, and columns, of a matrix of correlations in work at a time

F = TypeVar("F", np.float32, np.float64)


@dataclass(frozen=True)
class Graph:
    """`similarity` S (n, n): symmetric, normalized, float64, sorted CSR."""

    similarity: scipy.sparse.csr_array

    @property
    def n(self) -> int:
        return int(self.similarity.shape[0])


@dataclass(frozen=True)
class Opinion:
    """`labels` (n,) int32, -1 where no bought label reaches; `confidence` (n,) float32: its share of the mass."""

    labels: Int32Array
    confidence: Float32Array


@dataclass
class PoolGraph:
    """The graph over a pool's `positions` (k,), sorted; `places` (k, d) in the image space, `edges` directed (k, k)."""

    pool: PoolReader
    space: ImageSpace
    positions: Int64Array
    places: Float32Array
    edges: scipy.sparse.csr_array
    neighbors: int
    power: float
    _whole: Graph | None = None
    _visitors: dict[int, Float32Array] = field(default_factory=dict)

    def with_labeled(self, labeled: Int64Array) -> tuple[Graph, Int64Array]:
        """The graph with `labeled` (m,) in it, and the rows (m,) where they stand.

        Labeled samples that are not among `positions` get rows behind them and edges to their nearest neighbors there.
        """
        k = len(self.positions)
        rows = np.searchsorted(self.positions, labeled)
        inside = np.zeros(len(labeled), bool)
        inside[rows < k] = self.positions[rows[rows < k]] == labeled[rows < k]
        outside = labeled[~inside]
        if not len(outside):
            if self._whole is None:
                self._whole = normalized(self.edges)
            return self._whole, rows
        rows[~inside] = k + np.arange(len(outside))
        row, column, cosine = _nearest(self._places_of(outside), k, self.places, np.arange(k), self.neighbors)
        added = np.maximum(cosine, 0.0) ** self.power
        own = self.edges.tocoo()
        n = k + len(outside)
        joined = (np.concatenate([own.coords[0], row]), np.concatenate([own.coords[1], column]))
        return normalized(scipy.sparse.csr_array((np.concatenate([own.data, added]), joined), shape=(n, n))), rows

    def _places_of(self, positions: Int64Array) -> Float32Array:
        new = np.array(sorted({p for p in positions.tolist() if p not in self._visitors}), np.int64)
        self._visitors.update(zip(new.tolist(), _places(self.pool, self.space, new), strict=True))
        return np.stack([self._visitors[position] for position in positions.tolist()])


def knn_graph(
    pool: PoolReader,
    *,
    neighbors: int = 10,
    power: float = 3.0,
    limit: int = 20_000,
    whitening: float = 0.25,
    views: bool = True,
) -> PoolGraph:
    """The graph over `pool`, in the space of `psp_ray.neighbors.space` (`whitening`, `views` as there).

    In pools larger than `limit` it spans `limit` samples drawn by noise on their names. O(k^2 d) for k samples, in
    blocks of 4,096 x 4,096 similarities; ties go to the lower position. Memory: k (4 d + about 40 neighbors) bytes.
    """
    positions = subset(pool, np.arange(pool.n, dtype=np.int64), limit, "graph-targets")
    space = ImageSpace.fit(pool, whitening=whitening, views=views)
    features = _places(pool, space, positions)
    return PoolGraph(pool, space, positions, features, _edges(features, neighbors, power), neighbors, power)


def _places(pool: PoolReader, space: ImageSpace, positions: Int64Array) -> Float32Array:
    """Places (k, d) of sorted `positions` (k,), block by block."""
    places = [np.zeros((0, pool.dim), np.float32)]
    for index, span in block_spans(positions, pool.block_size):
        # The whole block, then its rows: the bits of a product depend on how many rows it has, and which samples are
        # asked for at once depends on where a run was resumed.
        block = pool.block(index, views=space.views)
        places.append(space.embed(block)[positions[span] - block.start])
    return np.concatenate(places)


def neighbor_graph(places: Float32Array, *, neighbors: int = 10, power: float = 3.0) -> Graph:
    """The graph of unit vectors `places` (n, d)."""
    return normalized(_edges(places, neighbors, power))


def _edges(places: Float32Array, neighbors: int, power: float) -> scipy.sparse.csr_array:
    """Directed edge weights (n, n) from each of `places` (n, d) to its nearest others."""
    n = len(places)
    if n == 0:
        return scipy.sparse.csr_array((0, 0), dtype=np.float64)
    found = [
        _nearest(places[at : at + BLOCK_SIZE], at, places, np.arange(n, dtype=np.int64), neighbors)
        for at in range(0, n, BLOCK_SIZE)
    ]
    row, column, cosine = (np.concatenate(part) for part in zip(*found, strict=True))
    return scipy.sparse.csr_array((np.maximum(cosine, 0.0) ** power, (row, column)), shape=(n, n))


def _nearest(
    query: Float32Array, start: int, features: Float32Array, targets: Int64Array, neighbors: int
) -> tuple[Int64Array, Int64Array, Float64Array]:
    """Neighbors of the samples `start ...` among `targets` with `features`: (row, column, cosine) of each edge."""
    best = StreamingTopK(len(query), neighbors)
    for at in range(0, len(targets), BLOCK_SIZE):
        names = targets[at : at + BLOCK_SIZE]
        cosines = query @ features[at : at + BLOCK_SIZE].T
        lo, hi = np.searchsorted(names, [start, start + len(query)])
        cosines[names[lo:hi] - start, np.arange(lo, hi)] = -np.inf  # nobody is its own neighbor
        best.offer(cosines, names)
    row, cosine, column = best.result()
    return row + start, column, cosine


def normalized(directed: scipy.sparse.csr_array) -> Graph:
    """The graph of a matrix of directed edge weights A (n, n) >= 0: `S = D^-1/2 (A + A') D^-1/2`."""
    weights = (directed + directed.T).tocsr()
    degree = np.asarray(weights.sum(axis=1)).ravel()
    scale = np.zeros_like(degree)
    np.divide(1.0, np.sqrt(degree), out=scale, where=degree > 0)
    diagonal = scipy.sparse.dia_array((scale[None, :], [0]), shape=weights.shape)
    similarity = (diagonal @ weights @ diagonal).tocsr()
    similarity.sum_duplicates()
    similarity.sort_indices()
    return Graph(similarity)


def reach(graph: Graph, *, alpha: float = 0.9) -> Float32Array:
    """How far a label spreads from each image to each other: the correlations (n, n) of `(I - alpha S)^-1`, 1 on the
    diagonal. O(n^3) time; for graphs small enough to hold them."""
    system = (-alpha * graph.similarity).astype(np.float32).toarray(order="F")
    system[np.diag_indices(graph.n)] += 1.0
    factor, failed = scipy.linalg.lapack.spotrf(system, lower=1, clean=0, overwrite_a=1)
    inverse, refused = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed or refused:  # S has eigenvalues in [-1, 1], so alpha < 1 keeps it positive definite
        raise ArithmeticError("the graph's system is not positive definite; lower graph_alpha")
    return _correlations(inverse.T)


def _correlations(covariance: Float32Array) -> Float32Array:
    """Correlations (n, n), none below 0, of a covariance that is known above its diagonal; in its place, some rows and
    columns at a time, so that they stay in a cache."""
    n = len(covariance)
    for at in range(0, n, _TILE):
        own = covariance[at : at + _TILE, at : at + _TILE]
        own[:] = np.triu(own) + np.triu(own, 1).T
        for beside in range(at + _TILE, n, _TILE):
            covariance[beside : beside + _TILE, at : at + _TILE] = covariance[
                at : at + _TILE, beside : beside + _TILE
            ].T
    scale = np.sqrt(covariance.diagonal())
    for at in range(0, n, _TILE):
        rows = covariance[at : at + _TILE]
        np.maximum(rows, 0.0, out=rows)
        rows /= scale[at : at + _TILE, None]
        rows /= scale
    return covariance


def propagate(
    graph: Graph, labeled: Int64Array, labels: Int32Array, *, alpha: float = 0.9, balance: str = "halfway"
) -> Opinion:
    """Opinion of the graph from `labels` (m,) at positions `labeled` (m,); ties to the lower class.

    `balance`: see `balancing`. Solves one symmetric positive definite system per class that occurs, by conjugate
    gradients to a relative residual of 1e-6, some classes at a time. Deterministic.
    """
    best = np.zeros(graph.n)
    total = np.zeros(graph.n)
    winner = np.full(graph.n, -1, np.int32)
    for part, mass in _masses(graph, labeled, labels, alpha, balance):
        total += mass.sum(axis=1)
        top = mass.argmax(axis=1)
        value = mass[np.arange(graph.n), top]
        better = value > best
        best[better] = value[better]
        winner[better] = part[top[better]]
    confidence = np.divide(best, total, out=np.zeros_like(best), where=total > 0)
    return Opinion(winner, confidence.astype(np.float32))


def class_masses(
    graph: Graph,
    labeled: Int64Array,
    labels: Int32Array,
    n_classes: int,
    *,
    alpha: float = 0.9,
    balance: str = "halfway",
) -> Float64Array:
    """All masses (n, C) behind `propagate`'s opinion, for graphs small enough to hold them."""
    result = np.zeros((graph.n, n_classes))
    for part, mass in _masses(graph, labeled, labels, alpha, balance):
        result[:, part] = mass
    return result


def _masses(
    graph: Graph, labeled: Int64Array, labels: Int32Array, alpha: float, balance: str
) -> Iterator[tuple[Int32Array, Float64Array]]:
    """Some classes at a time: (classes (k,), their masses (n, k)), classes rising."""
    classes = np.unique(labels)
    width = max(1, _COLUMN_ENTRIES // max(graph.n, 1))
    for at in range(0, len(classes), width):
        part = classes[at : at + width]
        seeds = np.zeros((graph.n, len(part)))
        column = np.minimum(np.searchsorted(part, labels), len(part) - 1)
        mine = part[column] == labels
        seeds[labeled[mine], column[mine]] = 1.0
        mass = np.maximum(solve(graph.similarity, seeds, alpha), 0.0)
        mass *= balancing(balance, seeds.sum(axis=0), mass.sum(axis=0))
        yield part, mass


def balancing(balance: str, counts: NDArray[F], masses: NDArray[F]) -> Float64Array:
    """Factors (k,) on the masses of classes that have `counts` (k,) labels and, as they come, `masses` (k,) in all.

    `none` lets classes with many or well connected labels flood the graph. `mass` makes all equal (Zhu, Ghahramani and
    Lafferty, ICML 2003, with equal priors), which is too much where classes differ in size; `tempered` (ours) lets them
    go with sqrt(labels + 1); `halfway` (ours) takes the geometric mean of that and what comes: what reaches few images
    may well be a small class. 0 for a class without mass.
    """
    if balance == "none":
        return np.ones(len(counts))
    wanted = np.ones(len(counts)) if balance == "mass" else np.sqrt(counts + 1.0)
    factor: Float64Array = np.divide(wanted, masses, out=np.zeros(len(counts)), where=masses > 0)
    return np.sqrt(factor) if balance == "halfway" else factor


def solve(
    similarity: scipy.sparse.csr_array, seeds: NDArray[F], alpha: float, tolerance: float = _TOLERANCE
) -> NDArray[F]:
    """Columns x (n, k) of `(I - alpha S) x = (1 - alpha) seed`, by conjugate gradients on all columns side by side.

    `similarity` S (n, n) and `seeds` (n, k) in one precision, to a relative residual of `tolerance`. Raises
    ArithmeticError where it isn't reached.
    """
    rhs: NDArray[F] = (1.0 - alpha) * seeds
    x = np.zeros_like(rhs)
    residual = rhs.copy()
    direction = residual.copy()
    square = np.einsum("ij,ij->j", residual, residual)
    goal = tolerance**2 * square
    moved = np.empty_like(rhs)
    for _ in range(_MOST_STEPS):
        active = square > goal
        if not active.any():
            return x
        image = similarity @ direction
        image *= alpha
        np.subtract(direction, image, out=image)
        curvature = np.einsum("ij,ij->j", direction, image)
        step = np.divide(square, curvature, out=np.zeros_like(square), where=active & (curvature > 0))
        x += np.multiply(step, direction, out=moved)
        residual -= np.multiply(step, image, out=moved)
        renewed = np.einsum("ij,ij->j", residual, residual)
        ratio = np.divide(renewed, square, out=np.zeros_like(square), where=active)
        direction *= ratio
        direction += residual
        square = np.where(active, renewed, square)
    raise ArithmeticError("label propagation did not converge; lower graph_alpha")
