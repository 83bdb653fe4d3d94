"""One pass over a large pool: class and confidence of every image, and the moments of all, from one product an image.

Teacher and class means are both linear in an encoding e, but that the means see its place `(e - mean) axes / r`, whose
length r is the image's own. So images whose r differ by a hair are taken together, and one matrix says what both say of
them: `T / t + axes M' / r` instead of two products and a projection. The hair is so wide that no log odds are off by
more than `SLACK`; images whose lengths few others share are looked at exactly. Lengths are functions of the pool alone:
they are found in the first pass and kept.

Work goes in groups that stay in a core's cache, from the product to the few probabilities that are not small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported where they are first used
from numpy.typing import NDArray

from psp_ray.core.pool import finite
from psp_ray.core.records import Float32Array, Int32Array, Int64Array, Moments, TextState
from psp_ray.neighbors.space import ImageSpace, averaged
from psp_ray.posterior.evidence import Weights
from psp_ray.posterior.fused import Heard, read
from psp_ray.posterior.members import PlaceSource
from psp_ray.posterior.opinions import ClassMeans, teacher_logits

SLACK = 0.01
"""How far, in nats, the log odds of a pass may be from those of a single image."""
LEAST = 0.01
"""Probabilities below this don't enter the moments."""
ALONE = 48
"""Images of about one length that are fewer than this are looked at exactly."""
SHORT = 1e-3
"""And so are those so near to the pool's mean that rounding would have a say in their direction."""
_IMAGES = 1 << 16  # images in work at a time, and
_ENTRIES = 1 << 23  # numbers of their encodings
_CACHED = 1 << 18  # log odds in work at a time


@dataclass(frozen=True)
class Sweep:
    """What a pass over the pool found: `labels` (n,) int32, `confidence` (n,) float32."""

    labels: Int32Array
    confidence: Float32Array


class Opinions:
    """Teacher and class means as matrices, by the length of an image's place before it is made a unit vector."""

    def __init__(self, weights: Weights, teacher: TextState, means: ClassMeans | None, space: ImageSpace) -> None:
        self._weights, self._teacher, self._means, self._space = weights, teacher, means, space
        factor = np.float32(weights.teacher * weights.temperature)
        self._taught = np.ascontiguousarray((factor * np.float32(teacher.logit_scale) * teacher.features).T)
        self._bias = factor * teacher.offset
        self.span = 0.0
        if means is not None:
            sharpness = means.sharpness * weights.temperature
            self._shown = np.ascontiguousarray(np.float32(sharpness) * (space.axes @ means.means.T))
            self._center = space.mean @ self._shown
            self._bias = self._bias + np.float32(weights.temperature) * means.bias
            self.span = 2.0 * float(np.log1p(SLACK / max(sharpness, SLACK)))
        self._matrix = np.empty((len(self._taught) + 1, self._taught.shape[1]), np.float32)

    @property
    def n_classes(self) -> int:
        return len(self._teacher.features)

    def matrix(self, length: float) -> Float32Array:
        """What encodings (m, d) with a 1 behind each are multiplied by, (d + 1, C); overwritten by the next."""
        table = self._matrix
        if self._means is None:
            table[:-1], table[-1] = self._taught, self._bias
            return table
        inverse = np.float32(1.0 / length)
        np.multiply(self._shown, inverse, out=table[:-1])
        table[:-1] += self._taught
        table[-1] = self._bias - inverse * self._center
        return table

    def groups(self, lengths: Float32Array) -> tuple[Int64Array, list[tuple[slice, float | None]]]:
        """An order of images with `lengths` (m,), and spans of it with the length that serves them all; None: take
        each by itself."""
        if self._means is None:
            return np.arange(len(lengths)), [(slice(0, len(lengths)), 1.0)]
        number = np.floor(np.log(np.maximum(lengths, SHORT / 2)) / self.span).astype(np.int64)
        found, which, count = np.unique(number, return_inverse=True, return_counts=True)
        common = (count >= ALONE) & (found * self.span > np.log(SHORT))
        rank = np.where(common, np.cumsum(common), 0)[which]  # those by themselves come first
        order = np.argsort(rank, kind="stable")
        edges = np.concatenate([[0, int((rank == 0).sum())], int((rank == 0).sum()) + np.cumsum(count[common])])
        served = [None, *np.exp((found[common] + 0.5) * self.span).tolist()]
        return order, [
            (slice(int(low), int(high)), length)
            for low, high, length in zip(edges[:-1], edges[1:], served, strict=True)
            if high > low
        ]

    def exact(self, encodings: Float32Array) -> Float32Array:
        """Log odds (m, C) of encodings (m, d), by two products."""
        logits = np.float32(self._weights.teacher) * teacher_logits(encodings, self._teacher)
        if self._means is not None:
            logits += self._means.logits(self._space.place(encodings))
        logits *= np.float32(self._weights.temperature)
        return logits


@dataclass
class Lengths:
    """The lengths (n,) float32 of images' places before they are made unit vectors; NaN until they are known."""

    values: Float32Array

    @classmethod
    def unknown(cls, n: int) -> Lengths:
        return cls(np.full(n, np.nan, np.float32))

    def of(self, encodings: Float32Array, positions: Int64Array, space: ImageSpace) -> Float32Array:
        """Those of `encodings` (m, d), which stand at consecutive `positions` (m,)."""
        span = slice(int(positions[0]), int(positions[-1]) + 1)
        if np.isnan(self.values[span]).any():
            moved = encodings @ space.axes
            moved -= space.mean @ space.axes
            self.values[span] = np.sqrt(np.einsum("ij,ij->i", moved, moved))
        return self.values[span]


def sweep(
    source: PlaceSource, opinions: Opinions, heard: Heard, lengths: Lengths, apart: Int64Array
) -> tuple[Sweep, Moments]:
    """Class and confidence of every image, and the moments of all but those at sorted positions `apart` (k,).

    Probabilities below `LEAST` are left out of the moments. O(n C d) time, some MB beside what is returned.
    """
    pool, n_classes = source.pool, opinions.n_classes
    found = Sweep(np.empty(pool.n, np.int32), np.empty(pool.n, np.float32))
    moments, least = Moments.nothing(n_classes, pool.dim), np.full(n_classes, LEAST, np.float32)
    for positions, encodings, features in _parts(source):
        order, groups = opinions.groups(lengths.of(encodings, positions, source.space))
        sorted_by_length = np.ones((len(order), pool.dim + 1), np.float32)
        np.take(encodings, order, axis=0, out=sorted_by_length[:, :-1])
        entries = []
        for rows, logits in _log_odds(opinions, sorted_by_length, order, groups):
            known = read(logits, heard, positions[rows], least)
            found.labels[positions[rows]], found.confidence[positions[rows]] = known.labels, known.confidence
            entries.append((rows[known.rows], known.classes, known.values))
        left_out = np.isin(positions, apart, assume_unique=True)
        rows, classes, values = (np.concatenate(column) for column in zip(*entries, strict=True))
        moments = moments.plus(_moments(rows, classes, values, features, left_out, n_classes))
    return found, moments


def _parts(source: PlaceSource) -> Iterator[tuple[Int64Array, Float32Array, Float32Array]]:
    """Positions (m,), encodings (m, d) and plain features (m, d) of some blocks at a time."""
    pool, views = source.pool, source.space.views
    height = max(1, min(_IMAGES, _ENTRIES // pool.dim) // pool.block_size)
    for first in range(0, pool.n_blocks, height):
        blocks = [pool.block(index, views=views) for index in range(first, min(first + height, pool.n_blocks))]
        features = np.concatenate([block.features for block in blocks]).astype(np.float32)
        positions = blocks[0].start + np.arange(len(features))
        if views:
            encodings = np.concatenate([averaged(block, True) for block in blocks])
        else:
            square = np.einsum("ij,ij->i", finite(features, positions), features)
            encodings = features * (1.0 / np.sqrt(np.maximum(square, 1e-24)))[:, None]
        yield positions, encodings, features


def _log_odds(
    opinions: Opinions,
    encodings: Float32Array,
    order: Int64Array,
    groups: list[tuple[slice, float | None]],
) -> Iterator[tuple[Int64Array, Float32Array]]:
    """Rows (k,) of a part and their log odds (k, C), overwritten by the next, of `encodings` (m, d + 1) in `order`."""
    n_classes = opinions.n_classes
    height = max(1, _CACHED // n_classes)
    room = np.empty((height, n_classes), np.float32)
    for span, length in groups:
        matrix = None if length is None else opinions.matrix(length)
        for at in range(span.start, span.stop, height):
            part = slice(at, min(at + height, span.stop))
            logits, rows = room[: part.stop - at], order[part]
            if matrix is None:
                logits[:] = opinions.exact(encodings[part, :-1])
            else:
                np.matmul(encodings[part], matrix, out=logits)
            yield rows, logits


def _moments(
    rows: Int64Array,
    classes: Int32Array,
    values: Float32Array,
    features: Float32Array,
    left_out: NDArray[np.bool_],
    n_classes: int,
) -> Moments:
    """Moments of images with `features` (m, d), but for those `left_out` (m,), from their probabilities `values` (e,)
    of `classes` (e,) in `rows` (e,)."""
    values[left_out[rows]] = 0.0
    kept = scipy.sparse.csr_array((values, (rows, classes)), shape=(len(features), n_classes))
    mass = np.bincount(rows, values, len(features)).astype(np.float32)
    # The product of a matrix with its own transpose: half of it is enough.
    half = scipy.linalg.blas.ssyrk(1.0, (features * np.sqrt(mass)[:, None]).T)
    return Moments(
        count=np.asarray(np.bincount(classes, values, n_classes), np.float64),
        first=np.asarray(kept.T @ features, np.float64),
        second=(half + np.triu(half, 1).T).astype(np.float64),
    )
