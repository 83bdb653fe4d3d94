"""Where the pseudo-labeler's views come from where the cache doesn't have them all: each round anew, or on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from psp_ray.core.errors import OutputError
from psp_ray.core.records import FeatureBlock, Float16Array, Int64Array, PoolReader
from psp_ray.features.cache import FeatureStore
from psp_ray.features.fresh import FreshViews
from psp_ray.features.tower import make_encoder, view_settings
from psp_ray.run.inputs import ViewInput, ViewStore

VIEW_PIECE = 128
"""Pool images that a view worker encodes at a time: a fixed number, so that results don't depend on who does it."""
VIEW_PIECES = 8
"""Such pieces that each view worker does between two reports, where views are encoded on demand."""


@dataclass(frozen=True)
class ViewProgress:
    """How many images got their views now, and how many are left."""

    done: int
    left: int


class FreshSource(Protocol):
    """Encodes views of pool positions for a round: (k, L, d) float16 for each piece of positions, in order.

    `width` pieces are worked on at a time.
    """

    @property
    def width(self) -> int: ...

    def encode(self, pieces: list[Int64Array], round: int) -> list[Float16Array]: ...


class FreshPool:
    """A `PoolReader` whose views are made anew for `round`."""

    def __init__(self, pool: PoolReader, source: FreshSource, n_views: int, round: int):
        self._pool, self._source, self._n_views, self._round = pool, source, n_views, round

    @property
    def n(self) -> int:
        return self._pool.n

    @property
    def dim(self) -> int:
        return self._pool.dim

    @property
    def n_views(self) -> int:
        return self._n_views

    @property
    def n_blocks(self) -> int:
        return self._pool.n_blocks

    @property
    def block_size(self) -> int:
        return self._pool.block_size

    def block(self, index: int, *, views: bool = False) -> FeatureBlock:
        block = self._pool.block(index)
        if not views:
            return block
        positions = np.arange(block.start, block.start + len(block.features))
        pieces = [positions[i : i + VIEW_PIECE] for i in range(0, len(positions), VIEW_PIECE)]
        encoded = np.concatenate(self._source.encode(pieces, self._round))
        return FeatureBlock(block.index, block.start, block.keys, block.features, encoded)

    def rows(self, positions: Int64Array) -> Float16Array:
        return self._pool.rows(positions)


class ViewsOnDemand:
    """Cached views that are encoded when they are asked for; the next round, or run, finds them in the cache."""

    def __init__(self, source: FreshSource, store: ViewStore, n_views: int, dim: int):
        self._source, self._hashes, self._n_views = source, store.hashes, n_views
        self._store = FeatureStore(store.folder, "views", n_views * dim)

    def __call__(self, positions: Int64Array) -> Float16Array:
        """Views (k, L, d) of pool positions."""
        while self.encode_some(positions).left:
            pass
        found = self._store.gather(*self._store.locate(self._hashes[positions]))
        return found.reshape(len(positions), self._n_views, -1)

    def encode_some(self, positions: Int64Array) -> ViewProgress:
        """Encode and keep a portion of the views (k, L, d) that are lacking.

        Raises:
            OutputError: what was kept is not found again.
        """
        hashes = self._hashes[positions]
        lacking = np.flatnonzero(~self._store.contains(hashes))
        if not len(lacking):
            return ViewProgress(0, 0)
        _, first = np.unique(hashes[lacking], axis=0, return_index=True)
        distinct = lacking[np.sort(first)]
        wanted = distinct[: VIEW_PIECES * self._source.width * VIEW_PIECE]
        pieces = [positions[wanted[i : i + VIEW_PIECE]] for i in range(0, len(wanted), VIEW_PIECE)]
        encoded = np.concatenate(self._source.encode(pieces, 0))
        self._store.write(hashes[wanted], encoded.reshape(len(wanted), -1))
        self._store.refresh()
        if not self._store.contains(hashes[wanted]).all():
            raise OutputError(f"{self._store.folder}: views written there are gone; leave the cache alone during a run")
        return ViewProgress(len(wanted), len(distinct) - len(wanted))


class ViewEncoder:
    """Encodes fresh views; heart of a view worker, or used directly in one process."""

    width = 1

    def __init__(self, given: ViewInput):
        self._views = FreshViews(given.manifest, given.hashes, view_settings(given.model))
        self._encoder = make_encoder(given.model, given.threads)

    def encode_piece(self, positions: Int64Array, round: int) -> Float16Array:
        return self._views.encode(self._encoder, positions, round)

    def encode(self, pieces: list[Int64Array], round: int) -> list[Float16Array]:
        return [self.encode_piece(piece, round) for piece in pieces]
