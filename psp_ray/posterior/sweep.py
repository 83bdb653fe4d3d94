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
from numpy.typing import NDArray

from psp_ray.core.compiled import compiled
from psp_ray.core.pool import finite
from psp_ray.core.records import Float16Array, Float32Array, Float64Array, Int32Array, Int64Array, Moments, TextState
from psp_ray.neighbors.space import ImageSpace, averaged
from psp_ray.posterior.evidence import Weights
from psp_ray.posterior.fused import Heard, Known, read
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
_HELD = 1 << 26  # numbers of images' features that are held at a time, and
_AVERAGED = 1 << 24  # where their views are averaged
_CACHED = 1 << 19  # log odds in work at a time


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
        self._matrix = np.empty_like(self._taught)

    @property
    def n_classes(self) -> int:
        return len(self._teacher.features)

    def matrix(self, length: float) -> tuple[Float32Array, Float32Array]:
        """What encodings (m, d) are multiplied by, (d, C), overwritten by the next; and what is added then, (C,)."""
        if self._means is None:
            return self._taught, self._bias
        inverse = np.float32(1.0 / length)
        np.multiply(self._shown, inverse, out=self._matrix)
        self._matrix += self._taught
        return self._matrix, self._bias - inverse * self._center

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

    def known(self, positions: Int64Array) -> bool:
        """Whether those at consecutive `positions` (m,) are."""
        return not np.isnan(self.values[int(positions[0]) : int(positions[-1]) + 1]).any()

    def of(self, encodings: Float32Array, positions: Int64Array, space: ImageSpace) -> Float32Array:
        """Those of `encodings` (m, d), which stand at consecutive `positions` (m,)."""
        span = slice(int(positions[0]), int(positions[-1]) + 1)
        if not self.known(positions):
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
    for window in _windows(source, lengths):
        some, counted = _Sums.nothing(n_classes, pool.dim), window.counted(apart)
        order, groups = opinions.groups(lengths.values[window.span])
        for rows, features, logits, scale, bias in _log_odds(opinions, window, order, groups):
            at = window.start + rows
            known = read(logits, heard, at, least, scale=scale, bias=bias)
            found.labels[at], found.confidence[at] = known.labels, known.confidence
            some.add(known, features, counted[rows])
        moments = moments.plus(some.moments())
    return found, moments


@dataclass(frozen=True)
class _Window:
    """Consecutive images from `start` on: `features` (m, d) as the pool has them, and their averaged `encodings` (m, d)
    where views make these another thing than features of length 1."""

    start: int
    features: Float16Array
    encodings: Float32Array | None

    @property
    def span(self) -> slice:
        return slice(self.start, self.start + len(self.features))

    def counted(self, apart: Int64Array) -> NDArray[np.bool_]:
        """Which of the images (m,) are not `apart`."""
        low, high = np.searchsorted(apart, [self.span.start, self.span.stop])
        counted = np.ones(len(self.features), bool)
        counted[apart[low:high] - self.start] = False
        return counted

    def rows(self, rows: Int64Array) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Features (k, d) of some images, what stands for their encodings (k, d), and the factors (k,) on that."""
        features = self.features[rows].astype(np.float32)
        if self.encodings is not None:
            return features, self.encodings[rows], np.ones(len(rows), np.float32)
        square = np.einsum("ij,ij->i", features, features)
        if not np.isfinite(square).all():
            finite(features, self.start + rows)
        return features, features, 1.0 / np.sqrt(np.maximum(square, np.float32(1e-24)))


def _windows(source: PlaceSource, lengths: Lengths) -> Iterator[_Window]:
    """All images, some blocks at a time; `lengths` are known then."""
    pool, views = source.pool, source.space.views
    height = max(1, (_AVERAGED if views else _HELD) // (pool.dim * pool.block_size))
    for first in range(0, pool.n_blocks, height):
        start = first * pool.block_size
        m = min(height * pool.block_size, pool.n - start)
        features = np.empty((m, pool.dim), np.float16)
        encodings = np.empty((m, pool.dim), np.float32) if views else None
        for index in range(first, min(first + height, pool.n_blocks)):
            block = pool.block(index, views=views)
            at = block.start + np.arange(len(block.features))
            features[at - start] = block.features
            if encodings is not None or not lengths.known(at):
                averages = averaged(block, views)
                lengths.of(averages, at, source.space)
                if encodings is not None:
                    encodings[at - start] = averages
        yield _Window(start, features, encodings)


def _log_odds(
    opinions: Opinions, window: _Window, order: Int64Array, groups: list[tuple[slice, float | None]]
) -> Iterator[tuple[Int64Array, Float32Array, Float32Array, Float32Array, Float32Array]]:
    """Rows (k,) of a window, in `order`, their features (k, d), and their log odds: logits (k, C), overwritten by the
    next, times a scale (k,) plus a bias (C,)."""
    n_classes = opinions.n_classes
    height, nothing = max(1, _CACHED // n_classes), np.zeros(n_classes, np.float32)
    room = np.empty((height, n_classes), np.float32)
    for span, length in groups:
        matrix, bias = (None, nothing) if length is None else opinions.matrix(length)
        for at in range(span.start, span.stop, height):
            rows = order[at : min(at + height, span.stop)]
            logits = room[: len(rows)]
            features, encodings, scale = window.rows(rows)
            if matrix is None:
                logits[:] = opinions.exact(encodings * scale[:, None])
                scale = np.ones(len(rows), np.float32)
            else:
                np.matmul(encodings, matrix, out=logits)
            yield rows, features, logits, scale, bias


@dataclass
class _Sums:
    """Moments as they grow: `count` (C,) float64, `first` (C, d) and `second` (d, d) float32."""

    count: Float64Array
    first: Float32Array
    second: Float32Array

    @classmethod
    def nothing(cls, n_classes: int, dim: int) -> _Sums:
        return cls(np.zeros(n_classes), np.zeros((n_classes, dim), np.float32), np.zeros((dim, dim), np.float32))

    def add(self, known: Known, features: Float32Array, counted: NDArray[np.bool_]) -> None:
        """Images with `features` (k, d), those that are `counted` (k,), by what is known of them."""
        values = np.where(counted[known.rows], known.values, np.float32(0.0))
        self.count += np.bincount(known.classes, values, len(self.count))
        compiled(_add_rows, _ADD_ROWS)(known.rows, known.classes, values, features, self.first)
        mass = np.bincount(known.rows, values, len(features)).astype(np.float32)
        scaled = features * np.sqrt(mass)[:, None]
        self.second += scaled.T @ scaled

    def moments(self) -> Moments:
        return Moments(self.count, self.first.astype(np.float64), self.second.astype(np.float64))


_ADD_ROWS = "void(int32[::1], int32[::1], float32[::1], float32[:,::1], float32[:,::1])"


def _add_rows(rows, classes, values, features, sums):  # type: ignore[no-untyped-def]  # as numba's signature says
    for at in range(len(rows)):
        value, one, whole = values[at], features[rows[at]], sums[classes[at]]
        for j in range(len(one)):
            whole[j] += value * one[j]
