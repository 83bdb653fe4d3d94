"""The images that the posterior is inferred on: those of the pool's graph, and bought ones beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from psp_ray.core.pool import block_spans
from psp_ray.core.records import Float32Array, Int64Array, PoolReader
from psp_ray.neighbors.graph import Graph, PoolGraph
from psp_ray.neighbors.space import ImageSpace, averaged, fitting_rows


@dataclass(frozen=True)
class Members:
    """A graph over images with `encodings` (k, d) and `places` (k, d); the bought ones stand in `rows` (m,)."""

    graph: Graph
    encodings: Float32Array
    places: Float32Array
    rows: Int64Array


@dataclass
class PlaceSource:
    """A pool's images in a `space`: where classes have means; whether it averages views decides what an encoding is."""

    pool: PoolReader
    space: ImageSpace

    def block(self, index: int) -> tuple[Float32Array, Float32Array]:
        """Encodings and places (m, d) of a block of the pool."""
        encodings = averaged(self.pool.block(index, views=self.space.views), self.space.views)
        return encodings, self.space.place(encodings)

    def read(self, positions: Int64Array) -> tuple[Float32Array, Float32Array]:
        """Encodings and places (k, d) of sorted `positions` (k,), row by row: whole blocks only where views need it."""
        parts = [np.zeros((0, self.pool.dim), np.float32)]
        encodings = np.concatenate([*parts, *fitting_rows(self.pool, positions, self.space.views)])
        return encodings, self.space.place(encodings)


@dataclass
class MemberSource(PlaceSource):
    """Gathers members from a pool: all images where the graph holds them all.

    Encodings and places are kept: 8 d bytes for each image of the graph and each bought one beside it.
    """

    graph: PoolGraph
    _own: tuple[Float32Array, Float32Array] | None = None
    _visitors: dict[int, tuple[Float32Array, Float32Array]] = field(default_factory=dict)

    def gather(self, labeled: Int64Array) -> Members:
        """Members where `labeled` (m,) are bought, in this order."""
        graph, rows = self.graph.with_labeled(labeled)
        encodings, places = self._graphs_own()
        outside = labeled[rows >= len(self.graph.positions)]
        if len(outside):
            new = np.array(sorted({p for p in outside.tolist() if p not in self._visitors}), np.int64)
            self._visitors.update(zip(new.tolist(), zip(*self._read(new), strict=True), strict=True))
            added = [self._visitors[position] for position in outside.tolist()]
            encodings = np.concatenate([encodings, np.stack([a for a, _ in added])])
            places = np.concatenate([places, np.stack([b for _, b in added])])
        return Members(graph, encodings, places, rows)

    def block(self, index: int) -> tuple[Float32Array, Float32Array]:
        """As in any source; what is kept of all images anyway is not computed again for each posterior."""
        if len(self.graph.positions) < self.pool.n:
            return super().block(index)
        span = slice(index * self.pool.block_size, (index + 1) * self.pool.block_size)
        encodings, places = self._graphs_own()
        return encodings[span], places[span]

    def _graphs_own(self) -> tuple[Float32Array, Float32Array]:
        if self._own is None:
            self._own = self._read(self.graph.positions)
        return self._own

    def _read(self, positions: Int64Array) -> tuple[Float32Array, Float32Array]:
        """Encodings and places (k, d) of sorted `positions` (k,). Whole blocks: see `psp_ray.neighbors.graph`."""
        size = self.pool.block_size
        parts = [(np.zeros((0, self.pool.dim), np.float32), np.zeros((0, self.pool.dim), np.float32))]
        for index, span in block_spans(positions, size):
            encodings, places = super().block(index)
            rows = positions[span] - index * size
            parts.append((encodings[rows], places[rows]))
        return np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])
