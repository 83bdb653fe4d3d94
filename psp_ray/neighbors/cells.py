"""A large pool in small: cells of like images, members drawn from all of them with the mass they stand for.

Whoever draws a few thousand of ten million images by chance alone sees nothing of a group of a hundred. So a pool that
is *large* is first cut into cells, by k-means over some of its images and one pass over all of them (a coarse
quantizer: Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", IEEE TPAMI 2011, section IV).
Members are then drawn with odds that fall with the root of a cell's size, so that small cells have a say, and rise with
the distance to the cell's center, where what belongs to no cell lies (ours, after the lightweight coresets of Bachem,
Lucic and Krause, KDD 2018). Each member keeps the mass that it stands for, the inverse of its chance to be drawn
(Horvitz and Thompson, JASA 1952), so that weighted sums over members estimate those over the pool without bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from psp_ray.core import noise
from psp_ray.core.pool import read_keys
from psp_ray.core.records import Float32Array, Float64Array, Int64Array, PoolReader, UInt64Array
from psp_ray.neighbors.space import ImageSpace, fitting_rows, unit

LARGE_POOL = 20_000
"""Images from which on a pool counts as large."""
LARGE_TABLE = 1 << 22
"""Probabilities (n C) from which on a pool counts as large, however few its images are."""
CELLS = 512
"""Cells of a large pool."""
FITTED = 1 << 16
"""Images that k-means looks at."""
STEPS = 6
"""Steps of k-means: cells need not be good, but of one kind."""
_CHUNK = 1 << 20  # images whose odds are in work at a time


def is_large(n: int, n_classes: int = 1) -> bool:
    """Whether a pool of n images is too large to be looked at as a whole: then it is known by members of its cells."""
    return n > LARGE_POOL or n * n_classes > LARGE_TABLE


@dataclass(frozen=True)
class Cells:
    """`centers` (L, d) unit vectors in `space`, found from the images at sorted positions `sample`.

    `of` (n,) uint16, each image's cell; `distance` (n,) float16, one minus the cosine to its center; `keys` (n,) noise
    keys.
    """

    space: ImageSpace
    centers: Float32Array
    sample: Int64Array
    of: NDArray[np.uint16]
    distance: NDArray[np.float16]
    keys: UInt64Array

    @property
    def sizes(self) -> Int64Array:
        """Images in each cell (L,)."""
        return np.bincount(self.of, minlength=len(self.centers)).astype(np.int64)

    def near(self, count: int) -> Int64Array:
        """The `count` cells nearest to each cell (L, count), itself first."""
        cosines = self.centers @ self.centers.T
        cosines[np.diag_indices(len(cosines))] = np.inf
        order: Int64Array = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        return order


_KNOWN: WeakKeyDictionary[PoolReader, dict[tuple[float, bool], Cells]] = WeakKeyDictionary()


def cells_of(pool: PoolReader, *, whitening: float = 0.25, views: bool = True) -> Cells:
    """The cells of a pool in the space of `psp_ray.neighbors.space`, computed once for each pool that is open.

    O(n d (L + d)) time; 12 bytes an image are kept.
    """
    views = views and pool.n_views > 0
    known = _KNOWN.setdefault(pool, {})
    found = known.get((whitening, views))
    if found is None:
        found = known[(whitening, views)] = _quantize(pool, whitening, views)
    return found


def _quantize(pool: PoolReader, whitening: float, views: bool) -> Cells:
    keys = read_keys(pool, np.arange(pool.n, dtype=np.int64))
    sample = np.sort(np.argsort(noise.bits(0, "cells", keys), kind="stable")[:FITTED])
    space = ImageSpace.fit(pool, whitening=whitening, views=views, among=sample)
    centers = k_means(np.concatenate([space.place(rows) for rows in fitting_rows(pool, sample, space.views)]), CELLS)
    of, distance = np.empty(pool.n, np.uint16), np.empty(pool.n, np.float16)
    for index in range(pool.n_blocks):
        block = pool.block(index, views=space.views)
        span = slice(block.start, block.start + len(block.keys))
        cosines = space.embed(block) @ centers.T
        nearest = cosines.argmax(axis=1)
        of[span], distance[span] = nearest, 1.0 - cosines[np.arange(len(nearest)), nearest]
    return Cells(space, centers, sample, of, distance, keys)


def k_means(places: Float32Array, count: int) -> Float32Array:
    """Centers (count, d) of unit vectors `places` (m, d), by some steps of spherical k-means after k-means++.

    An empty cell keeps its center. Deterministic.
    """
    from sklearn.cluster import kmeans_plusplus

    count = min(count, len(places))
    seeded = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), 32 * count)).astype(int))]
    centers: Float32Array = kmeans_plusplus(seeded, count, random_state=0, n_local_trials=1)[0]
    for _ in range(STEPS):
        sums, height = np.zeros_like(centers), 1 << 13
        for at in range(0, len(places), height):
            rows = places[at : at + height]
            nearest = (rows @ centers.T).argmax(axis=1)
            member = np.zeros((len(rows), count), np.float32)
            member[np.arange(len(rows)), nearest] = 1.0
            sums += member.T @ rows
        empty = ~sums.any(axis=1)
        sums[empty] = centers[empty]
        centers = unit(sums)
    return centers


@dataclass(frozen=True)
class Members:
    """Sorted `positions` (k,) drawn from a pool, and the `mass` (k,) float32 of images that each stands for."""

    positions: Int64Array
    mass: Float32Array


def draw_members(
    cells: Cells,
    count: int,
    purpose: str,
    *,
    among: Int64Array | None = None,
    worth: NDArray[np.floating] | None = None,
    round: int = 0,
    temper: float = 0.5,
) -> Members:
    """`count` images from everywhere in the pool, or `among` sorted positions (m,), with the mass they stand for.

    `worth` (m,) >= 0: what an image counts, which its odds are proportional to (those that count nothing are never
    drawn). `temper`: a cell's share of the members goes with its images (or their worth) to this power; 1 draws all
    alike. Chance is a function of purpose, round and names. O(m) time, some chunks of memory.
    """
    m = len(cells.of) if among is None else len(among)
    odds = _odds(cells, among, worth, temper)
    best, wait = np.zeros(0, np.int64), np.zeros(0)
    for at in range(0, m, _CHUNK):
        rows = np.arange(at, min(at + _CHUNK, m))
        chance = odds(rows)
        names = cells.keys[rows if among is None else among[rows]]
        with np.errstate(divide="ignore"):
            # Waiting times: the first `count` to come are a draw without replacement (Efraimidis, Spirakis 2006).
            waits = -np.log(noise.uniform(0, purpose, names, round=round)) / chance
        rows, waits = rows[chance > 0], waits[chance > 0]
        best, wait = np.concatenate([best, rows]), np.concatenate([wait, waits])
        if len(best) > count + 1:
            first = np.argpartition(wait, count)[: count + 1]
            best, wait = best[first], wait[first]
    drawn = best if len(best) <= count else best[wait < wait.max()]
    until = np.inf if len(best) <= count else float(wait.max())
    drawn = np.sort(drawn)
    with np.errstate(over="ignore"):
        mass = 1.0 / -np.expm1(-odds(drawn) * until)
    return Members(drawn if among is None else among[drawn], mass.astype(np.float32))


def _odds(
    cells: Cells, among: Int64Array | None, worth: NDArray[np.floating] | None, temper: float
) -> Callable[[Int64Array], Float64Array]:
    """A function from rows (k,) to their odds (k,)."""
    total, spread = np.zeros(len(cells.centers)), np.zeros(len(cells.centers))
    m = len(cells.of) if among is None else len(among)

    def seen(rows: Int64Array) -> tuple[NDArray[np.uint16], Float64Array, Float64Array]:
        at = rows if among is None else among[rows]
        counts = np.ones(len(rows)) if worth is None else worth[rows].astype(np.float64)
        return cells.of[at], cells.distance[at].astype(np.float64) ** 2, counts

    for at in range(0, m, _CHUNK):
        cell, far, counts = seen(np.arange(at, min(at + _CHUNK, m)))
        total += np.bincount(cell, counts, minlength=len(total))
        spread += np.bincount(cell, counts * far, minlength=len(total))
    mean = spread / np.maximum(total, 1e-300)
    share = np.maximum(total, 1e-300) ** (temper - 1.0)

    def odds(rows: Int64Array) -> Float64Array:
        cell, far, counts = seen(rows)
        beyond = np.divide(far, mean[cell], out=np.ones_like(far), where=mean[cell] > 1e-12)
        result: Float64Array = counts * share[cell] * 0.5 * (1.0 + np.minimum(beyond, 10.0))
        return result

    return odds
