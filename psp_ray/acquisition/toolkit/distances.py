"""Greedy k-center and k-means++ over embeddings given by factors, without ever building them.

An embedding is the outer product of its factors: `s_i = f_i (x) w_i` for gradient embeddings, just `x_i` for plain
vectors, so that `|s_i - s_j|^2 = |s_i|^2 + |s_j|^2 - 2 prod(a_i . a_j)` over the factors a. Both algorithms put off
updating the distances: distances to the nearest center only fall, so stale ones are upper bounds, and a few centers
at a time are taken in by matrix products. The results are those of the plain algorithms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from psp_ray.acquisition.toolkit.passes import CACHE_BYTES, Passes
from psp_ray.core.pool import read_blocks, read_rows
from psp_ray.core.probability import class_probabilities
from psp_ray.core.records import BLOCK_SIZE, Float32Array, Float64Array, Int64Array, PoolReader

Factors = tuple[Float32Array, ...]

_BATCH = 64  # centers taken in at a time
_PATIENCE = 64  # candidates looked at in vain before that
_ROUNDING = 4e-6  # relative to |s_i|^2 + |s_j|^2: below it a float32 distance is 0


def gradient_factors(embeddings: Float32Array, logit_scale: float) -> Callable[[Float32Array], Factors]:
    """Factors (f, w) of the gradient embeddings of BADGE: `w_ic = 1[c = yhat_i] - p_ic` under the given prompt.

    `f_i (x) w_i` is, up to sign and scale, the gradient of the cross-entropy at the predicted class with respect to
    the class embeddings (Ash et al., "Deep batch active learning by diverse, uncertain gradient lower bounds",
    ICLR 2020, equation 1).
    """

    def factors(features: Float32Array) -> Factors:
        p = class_probabilities(features, embeddings, logit_scale)
        w = -p
        w[np.arange(len(w)), (features @ embeddings.T).argmax(axis=1)] += 1.0
        return features, w.astype(np.float32)

    return factors


def squared_norms(factors: Factors) -> Float64Array:
    """|s_i|^2 (m,)."""
    norms = np.ones(len(factors[0]))
    for factor in factors:
        norms *= np.einsum("ij,ij->i", factor, factor, dtype=np.float64)
    return norms


def squared_distances(
    factors: Factors, norms: Float64Array, centers: Factors, center_norms: Float64Array
) -> Float64Array:
    """|s_i - s_j|^2 (m, k), 0 where it is nothing but rounding."""
    product = np.ones((len(factors[0]), len(centers[0])))
    for factor, center in zip(factors, centers, strict=True):
        product *= factor @ center.T
    sums = norms[:, None] + center_norms[None, :]
    distances = sums - 2.0 * product
    distances[distances < _ROUNDING * sums] = 0.0
    return distances


class Points:
    """Embeddings of the sorted `positions` of a pool; `factors` makes them from features (m, d).

    Kept in memory up to `limit` bytes, made anew in every pass beyond. Indices count within `positions`.
    """

    def __init__(
        self,
        pool: PoolReader,
        positions: Int64Array,
        factors: Callable[[Float32Array], Factors],
        limit: int = CACHE_BYTES,
    ) -> None:
        self.pool, self.positions, self._factors = pool, positions, factors
        self._passes: Passes[Factors] = Passes(self._make, limit)
        self.norms = np.concatenate([np.zeros(0), *(squared_norms(block) for block in self._passes)])

    @property
    def n(self) -> int:
        return len(self.positions)

    def _make(self) -> Iterator[Factors]:
        for block in read_blocks(self.pool, self.positions):
            yield self._factors(block.features)

    def at(self, positions: Int64Array) -> Factors:
        """Factors of any samples of the pool, for example of labeled ones."""
        return self._factors(read_rows(self.pool, positions))

    def rows(self, indices: list[int]) -> Factors:
        """Factors of a few of the points."""
        kept = self._passes.kept
        if kept is None:
            return self.at(self.positions[np.asarray(indices, np.int64)])
        starts = np.cumsum([0, *(len(block[0]) for block in kept)])
        which = np.searchsorted(starts, indices, side="right") - 1
        found = [tuple(part[i - starts[b]] for part in kept[b]) for i, b in zip(indices, which, strict=True)]
        return tuple(np.stack(parts) for parts in zip(*found, strict=True))

    def lower(self, nearest: Float64Array, centers: Factors) -> None:
        """Take `centers` into `nearest` (n,), the squared distances to the nearest center so far."""
        center_norms = squared_norms(centers)
        start = 0
        for block in self._passes:
            span = slice(start, start + len(block[0]))
            distances = squared_distances(block, self.norms[span], centers, center_norms)
            np.minimum(nearest[span], distances.min(axis=1), out=nearest[span])
            start = span.stop


class _Pending:
    """Centers that are chosen but not yet taken into the distances of all points."""

    def __init__(self, points: Points, nearest: Float64Array, taken: float) -> None:
        self.points, self.nearest, self.taken = points, nearest, taken
        self.indices: list[int] = []
        self.in_vain = 0
        self._factors: Factors = ()
        self._norms = np.zeros(0)

    def __len__(self) -> int:
        return len(self.indices)

    def add(self, index: int) -> None:
        row = self.points.rows([index])
        joined = zip(self._factors, row, strict=True)
        self._factors = tuple(np.concatenate(pair) for pair in joined) if self.indices else row
        self._norms = np.append(self._norms, squared_norms(row))
        self.indices.append(index)
        self.nearest[index] = self.taken

    def distance(self, index: int) -> float:
        """The true squared distance of a point to the nearest center."""
        if not self.indices:
            return float(self.nearest[index])
        row = self.points.rows([index])
        found = squared_distances(row, self.points.norms[[index]], self._factors, self._norms)
        return float(min(self.nearest[index], found.min()))

    @property
    def due(self) -> bool:
        return bool(self.indices) and (len(self.indices) >= _BATCH or self.in_vain >= _PATIENCE)

    def settle(self) -> None:
        if self.indices:
            self.points.lower(self.nearest, self._factors)
        self.indices, self._factors, self._norms, self.in_vain = [], (), np.zeros(0), 0


def k_center(points: Points, count: int, centers: Int64Array, rng: np.random.Generator) -> Int64Array:
    """Greedy k-center: `count` indices, each the point farthest from all centers and those chosen before.

    `centers`: positions of samples that are centers from the start; where there are none, the first point is drawn
    uniformly. Ties go to the lower position; points that coincide with a center are taken last. O(n count q) time for
    embeddings of q numbers in factors.
    """
    nearest = np.full(points.n, np.inf)
    for at in range(0, len(centers), BLOCK_SIZE // 16):
        points.lower(nearest, points.at(centers[at : at + BLOCK_SIZE // 16]))
    chosen: list[int] = []
    pending = _Pending(points, nearest, taken=-1.0)  # below every distance: never again
    while len(chosen) < count:
        if not len(centers) and not chosen:
            index = int(rng.integers(points.n))
        else:
            index = int(np.argmax(nearest))
            true = pending.distance(index)
            if true < nearest[index]:
                nearest[index] = true
                pending.in_vain += 1
                if pending.due:
                    pending.settle()
                continue
        pending.add(index)
        chosen.append(index)
        if pending.due or len(chosen) == 1:
            pending.settle()
    return np.asarray(chosen, np.int64)


def k_means_pp(points: Points, count: int, rng: np.random.Generator) -> Int64Array:
    """k-means++ seeding: `count` distinct indices; the first has the largest norm, then odds grow as D^2.

    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding" (SODA 2007), with BADGE's first center.
    Draws from stale distances are thinned by true / stale, which leaves odds proportional to the true ones. Where only
    copies of centers are left they are drawn uniformly. O(n count q) time.
    """
    nearest = np.full(points.n, np.inf)
    pending = _Pending(points, nearest, taken=0.0)
    first = int(np.argmax(points.norms))
    pending.add(first)
    chosen = [first]
    pending.settle()
    total = np.cumsum(nearest)
    while len(chosen) < count:
        if total[-1] <= 0.0:
            left = np.setdiff1d(np.arange(points.n), chosen)
            chosen.extend(rng.permutation(left)[: count - len(chosen)].tolist())
            break
        index = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        index = min(index, points.n - 1)
        stale = float(nearest[index])
        if stale > 0.0 and rng.random() * stale < pending.distance(index):
            pending.add(index)
            chosen.append(index)
        else:
            pending.in_vain += 1
        if pending.due or (pending.in_vain >= _PATIENCE and not len(pending)):
            pending.settle()
            total = np.cumsum(nearest)
    return np.asarray(chosen, np.int64)
