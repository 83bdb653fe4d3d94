"""The space in which images are near each other: for label propagation and for covering the pool.

CLIP features serve text, not neighborhoods: they share a large common part, and a few directions drown the rest. An
image's encodings (the plain one and its augmented views) are averaged, centered over the pool and partly whitened: the
principal axis j with standard deviation sigma_j is divided by `sigma_j ** whitening` (0: rotation only, 1: all axes
alike). Measured (ours) on val of three data sets, random labels, accuracy of label propagation: see docs/method.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from psp_ray.core import noise
from psp_ray.core.pool import block_spans, finite, read_keys
from psp_ray.core.records import BLOCK_SIZE, FeatureBlock, Float32Array, Float64Array, Int64Array, PoolReader

FIT_BLOCKS = 16
"""Blocks that mean and covariance are taken from; in larger pools evenly spaced ones."""
_EQUAL = 1e-3  # a spread this small is the rounding of half floats
_FLOOR = 1e-3  # axes with less than this share of the largest deviation are not blown up further


@dataclass(frozen=True)
class ImageSpace:
    """A map of encodings to unit vectors.

    `mean` (d,) and `axes` (d, d) float32; `views`: whether views are averaged in.
    """

    mean: Float32Array
    axes: Float32Array
    views: bool

    @classmethod
    def fit(
        cls,
        pool: PoolReader,
        *,
        whitening: float = 0.25,
        views: bool = True,
        shrinkage: float | None = None,
        among: Int64Array | None = None,
    ) -> ImageSpace:
        """Mean and principal axes of a pool's encodings; O(n d^2 + d^3), block by block in float64.

        `views`: average the pool's cached views in, where it has any. `shrinkage`: pull the covariance to a multiple
        of the identity, by this share more than `oracle_shrinkage` says (None: not at all); strong whitening of small
        pools needs it. `among`: look at the images at these sorted positions, not at some blocks; a block is of one
        kind where names tell classes. A pool of equal images is left where it is. Raises DatasetError where a feature
        is not finite.
        """
        views = views and pool.n_views > 0
        count, total, square = 0, np.zeros(pool.dim), np.zeros((pool.dim, pool.dim))
        seen: Iterator[Float32Array]
        if among is None:
            seen = (averaged(pool.block(index, views=views), views) for index in fit_blocks(pool.n_blocks))
        else:
            seen = fitting_rows(pool, among, views)
        for rows in (part.astype(np.float64) for part in seen):
            count += len(rows)
            total += rows.sum(axis=0)
            square += rows.T @ rows
        mean = total / max(count, 1)
        covariance = square / max(count, 1) - np.outer(mean, mean)
        if shrinkage is not None:
            share = min(1.0, oracle_shrinkage(covariance, count) + shrinkage)
            covariance = (1.0 - share) * covariance + share * np.trace(covariance) / pool.dim * np.eye(pool.dim)
        variance, axes = np.linalg.eigh(covariance)
        deviation = np.sqrt(np.maximum(variance, 0.0))
        if np.sqrt(np.sum(deviation**2)) < _EQUAL:
            return cls(np.zeros(pool.dim, np.float32), np.eye(pool.dim, dtype=np.float32), views)
        axes = axes * np.maximum(deviation / deviation.max(), _FLOOR) ** -whitening
        return cls(mean.astype(np.float32), axes.astype(np.float32), views)

    def embed(self, block: FeatureBlock, rows: Int64Array | None = None) -> Float32Array:
        """Unit vectors (m, d) of a block, or of some `rows` (m,) of it, read with its views if `views` says so."""
        return self.place(averaged(block, self.views, rows))

    def place(self, encodings: Float32Array) -> Float32Array:
        """Unit vectors (m, d) of (averaged) encodings (m, d); an encoding equal to the mean becomes 0."""
        return unit((encodings - self.mean) @ self.axes)


def oracle_shrinkage(covariance: Float64Array, n: int) -> float:
    """Share of the identity in the best mixture with a `covariance` (d, d) of n samples: OAS of Chen, Wiesel, Eldar and
    Hero, "Shrinkage algorithms for MMSE covariance estimation" (IEEE TSP 2010), equation 23."""
    d = len(covariance)
    square, trace = float(np.sum(covariance**2)), float(np.trace(covariance))
    below = (n + 1 - 2 / d) * (square - trace**2 / d)
    return 1.0 if below <= 0 else min(1.0, ((1 - 2 / d) * square + trace**2) / below)


def averaged(block: FeatureBlock, views: bool, chosen: Int64Array | None = None) -> Float32Array:
    """Mean direction (m, d) of the plain encoding and the views of each sample, or of the `chosen` rows (m,)."""
    some = np.arange(len(block.features)) if chosen is None else chosen
    rows = finite(block.features[some].astype(np.float32), block.start + some)
    if views and block.views is not None:
        rows = rows + block.views[some].astype(np.float32).sum(axis=1)
    return unit(rows)


def fit_blocks(n_blocks: int) -> list[int]:
    """Indices of at most `FIT_BLOCKS` evenly spaced blocks."""
    return [int(block) for block in np.unique(np.linspace(0, n_blocks - 1, min(n_blocks, FIT_BLOCKS)).astype(int))]


def fitting_rows(pool: PoolReader, positions: Int64Array, views: bool) -> Iterator[Float32Array]:
    """Averaged encodings (m, d) of sorted `positions`, some at a time; with `views` whole blocks are read for them."""
    for at in range(0, len(positions), BLOCK_SIZE):
        part = positions[at : at + BLOCK_SIZE]
        if not views:
            yield unit(finite(pool.rows(part).astype(np.float32), part))
            continue
        for index, span in block_spans(part, pool.block_size):
            block = pool.block(index, views=True)
            yield averaged(block, True, part[span] - block.start)


def subset(pool: PoolReader, positions: Int64Array, limit: int, purpose: str, *, round: int = 0) -> Int64Array:
    """`positions` (k,), or the `limit` of them that noise on their names puts first; sorted."""
    if len(positions) <= limit:
        return positions
    words = noise.bits(0, purpose, read_keys(pool, positions), round=round)
    order = np.lexsort((positions, words))
    return np.sort(positions[order[:limit]])


def unit(rows: np.ndarray) -> Float32Array:
    """Rows (m, d) at length 1; those that are 0 stay so."""
    rows = np.asarray(rows, np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    result: Float32Array = np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-12)
    return result
