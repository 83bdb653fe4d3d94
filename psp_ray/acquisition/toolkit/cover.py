"""Greedy choice of the samples that cover the others best, for any kernel and any weights.

The coverage of a set S is `sum_i w_i max_{s in S} k(x_i, x_s)` (Bae, Noh and Sutherland, "Generalized coverage for more
robust low-budget active learning", ECCV 2024, equation 4). It is submodular: what a sample would add never grows while
S does, so that gains computed earlier are upper bounds, and only the samples whose bound leads have to be looked at
again (Minoux, "Accelerated greedy algorithms for maximizing submodular set functions", 1978). The result is that of the
plain greedy algorithm, and no matrix of kernel values is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from psp_ray.acquisition.strategy import DECIMALS
from psp_ray.acquisition.toolkit.distances import squared_distances, squared_norms
from psp_ray.core import noise
from psp_ray.core.pool import read_blocks
from psp_ray.core.records import Float32Array, Float64Array, Int64Array, PoolReader, UInt64Array

WITHIN = 10_000
"""Samples that are covered and chosen from; of larger pools so many are drawn by noise on their names."""
_COLUMNS, _AGAIN = 512, 32

Kernel = Callable[[Float64Array], Float64Array]
"""Similarity in [0, 1] as a function of squared Euclidean distances, element by element."""


@dataclass(frozen=True)
class Part:
    """Some samples of a pool: `positions` (m,) sorted, noise `keys` (m,), `features` (m, d) float32."""

    positions: Int64Array
    keys: UInt64Array
    features: Float32Array


def read_part(pool: PoolReader, positions: Int64Array, seed: int, least: int = 0) -> Part:
    """The sorted `positions`, or `WITHIN` of them (at least `least`), drawn by noise on their names.

    Raises DatasetError where a feature is not a finite number. Memory: WITHIN * d * 4 bytes and a block.
    """
    size = max(WITHIN, least)
    if len(positions) > size:
        keys = np.concatenate([block.keys for block in read_blocks(pool, positions)])
        positions = np.sort(positions[np.lexsort((keys, noise.bits(seed, "cover", keys)))[:size]])
    blocks = list(read_blocks(pool, positions))
    features = np.concatenate([np.ascontiguousarray(block.features) for block in blocks])
    return Part(positions, np.concatenate([block.keys for block in blocks]), features)


def gaussian(bandwidth: float) -> Kernel:
    """`exp(-|x - y|^2 / bandwidth^2)`."""
    return lambda squares: np.exp(squares / -(bandwidth**2))


def top_hat(radius: float) -> Kernel:
    """1 where `|x - y| < radius`, else 0; a sample always covers itself and its copies."""
    return lambda squares: ((squares < radius**2) | (squares == 0.0)).astype(np.float64)


class Cover:
    """How well each of the samples `x` (m, d) is covered so far, and what others would add.

    `weights` (m,) of the samples, by default 1 each.
    """

    def __init__(self, x: Float32Array, kernel: Kernel, weights: Float64Array | None = None) -> None:
        self.x, self.kernel = x, kernel
        self.weights = np.ones(len(x)) if weights is None else weights
        self.covered = np.zeros(len(x))
        self._norms = squared_norms((x,))

    def add(self, centers: Float32Array) -> None:
        """Let `centers` (k, d) cover, too."""
        for at in range(0, len(centers), _COLUMNS):
            np.maximum(self.covered, self._kernel(centers[at : at + _COLUMNS]).max(axis=1), out=self.covered)

    def gains(self, indices: Int64Array) -> Float64Array:
        """What each of the samples would add to the coverage, were it the next center, (k,)."""
        result = np.empty(len(indices))
        for at in range(0, len(indices), _COLUMNS):
            more = self._kernel(self.x[indices[at : at + _COLUMNS]]) - self.covered[:, None]
            result[at : at + _COLUMNS] = self.weights @ np.maximum(more, 0.0)
        return np.round(result, DECIMALS)

    def _kernel(self, centers: Float32Array) -> Float64Array:
        return self.kernel(squared_distances((self.x,), self._norms, (centers,), squared_norms((centers,))))


def greedy(cover: Cover, count: int, keys: UInt64Array) -> Int64Array:
    """`count` distinct indices, each the one that adds most to the coverage.

    Gains equal to five decimals are ordered by the samples' noise `keys` (m,), so that what is left once everything
    is covered comes in random order. O(m^2 d) time at most once, O(m d) for every sample that is looked at again.
    """
    m = len(cover.x)
    bound = cover.gains(np.arange(m))
    fresh = np.ones(m, bool)
    chosen: list[int] = []
    while len(chosen) < count:
        order = np.lexsort((keys, -bound))
        best = int(order[0])
        if fresh[best]:
            chosen.append(best)
            cover.add(cover.x[[best]])
            fresh = bound <= 0.0  # what adds nothing never will
            bound[best], fresh[best] = -np.inf, True
        else:
            again = order[: int(np.argmax(fresh[order]))][:_AGAIN]  # those whose old bound leads
            bound[again] = cover.gains(again)
            fresh[again] = True
    return np.asarray(chosen, np.int64)
