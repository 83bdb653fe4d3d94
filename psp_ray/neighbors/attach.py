"""The nearest members of every image of a large pool: what a graph of its members says, said to all images.

A graph over ten million images is out of reach, one over some thousand members is not. The others take the mean of what
their nearest members say: the out-of-sample formula of label propagation (Delalleau, Bengio and Le Roux, AISTATS 2005),
and the anchor graph of Liu, He and Chang (ICML 2010). Neighbors are sought among the members of the cells around an
image's own: an inverted file (Jégou, Douze and Schmid, IEEE TPAMI 2011) whose coarse assignment is at hand already.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported where they are first used
from numpy.typing import NDArray

from psp_ray.core.records import Float32Array, Int64Array, PoolReader
from psp_ray.neighbors.cells import Cells

NEAREST = 3
"""Members that an image listens to."""
PROBES = 12
"""Cells around its own in which an image looks for members."""
_ENTRIES = 1 << 25  # numbers of images' places that are looked up at a time


@dataclass(frozen=True)
class Attached:
    """`members` (n, k) int32, the rows of each image's nearest members, and `weights` (n, k) float16 that sum to 1.

    An image that is a member itself listens to itself alone. Where fewer than k are near, weights are 0.
    """

    members: NDArray[np.int32]
    weights: NDArray[np.float16]

    def rows(self, positions: Int64Array | slice, n_members: int) -> scipy.sparse.csr_array:
        """Weights (m, members) of some images, as a sparse matrix."""
        members, weights = self.members[positions], self.weights[positions]
        m, k = members.shape
        start = np.arange(0, m * k + 1, k)
        return scipy.sparse.csr_array(
            (weights.ravel().astype(np.float32), members.ravel(), start), shape=(m, n_members)
        )


def attach(pool: PoolReader, cells: Cells, positions: Int64Array, places: Float32Array, *, power: float) -> Attached:
    """The nearest of the members at sorted `positions` (k,), with `places` (k, d) in the cells' space, of all images.

    An image weighs them by the cosine to the `power`, as edges of the graph do. O(n d k PROBES / L) time.
    """
    near, of_members = cells.near(PROBES), cells.of[positions]
    order = np.argsort(of_members, kind="stable")
    bounds = np.searchsorted(of_members[order], np.arange(len(cells.centers) + 1))
    lists = [
        np.concatenate([order[bounds[c] : bounds[c + 1]] for c in around]).astype(np.int32) for around in near.tolist()
    ]
    members = np.zeros((pool.n, NEAREST), np.int32)
    weights = np.zeros((pool.n, NEAREST), np.float16)
    room = np.empty((max(map(len, lists)), places.shape[1]), np.float32)
    height = max(1, _ENTRIES // (pool.dim * pool.block_size))
    for first in range(0, pool.n_blocks, height):
        blocks = [pool.block(i, views=cells.space.views) for i in range(first, min(first + height, pool.n_blocks))]
        start = blocks[0].start
        images = np.concatenate([cells.space.embed(block) for block in blocks])
        cell = cells.of[start : start + len(images)]
        by_cell = np.argsort(cell, kind="stable")
        edges = np.searchsorted(cell[by_cell], np.arange(len(lists) + 1))
        for number in np.flatnonzero(np.diff(edges)).tolist():
            rows = by_cell[edges[number] : edges[number + 1]]
            found, cosine = _nearest(images[rows], lists[number], places, room)
            members[start + rows, : found.shape[1]] = found
            weights[start + rows, : found.shape[1]] = _shares(cosine, power)
    members[positions] = np.arange(len(positions), dtype=np.int32)[:, None]
    weights[positions] = np.eye(1, NEAREST, dtype=np.float16)
    return Attached(members, weights)


def _nearest(
    images: Float32Array, candidates: NDArray[np.int32], places: Float32Array, room: Float32Array
) -> tuple[NDArray[np.int32], Float32Array]:
    """The nearest of `candidates` (c,) of each image (m, d): their rows and cosines, (m, at most NEAREST).

    `room` (>= c, d): where the candidates' places are put together, the same memory each time.
    """
    cosines = images @ np.take(places, candidates, axis=0, out=room[: len(candidates)], mode="clip").T
    rows, found = np.arange(len(images)), []
    for _ in range(min(NEAREST, len(candidates))):  # a few passes are cheaper than a partial sort
        best = cosines.argmax(axis=1)
        found.append((candidates[best], cosines[rows, best]))
        cosines[rows, best] = -np.inf
    if not found:
        return np.zeros((len(images), 0), np.int32), np.zeros((len(images), 0), np.float32)
    return np.stack([a for a, _ in found], axis=1), np.stack([b for _, b in found], axis=1)


def _shares(cosine: Float32Array, power: float) -> Float32Array:
    """Weights that sum to 1, or are all 0 where nothing is near."""
    weight = np.maximum(cosine, 0.0) ** np.float32(power)
    total = weight.sum(axis=1, keepdims=True)
    shares: Float32Array = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    return shares
