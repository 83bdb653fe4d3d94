"""The pseudo-labeler as a component, and where its views come from: the cache, each round anew, or on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from psp_ray.config.config import Config
from psp_ray.core.errors import OutputError
from psp_ray.core.records import (
    FeatureBlock,
    Float16Array,
    Int32Array,
    Int64Array,
    PoolReader,
    PseudoLabels,
    TextState,
)
from psp_ray.features.cache import FeatureStore

VIEW_PIECE = 128
"""Pool images that a view worker encodes at a time: a fixed number, so that results don't depend on who does it."""
VIEW_PIECES = 8
"""Such pieces that each view worker does between two reports, where views are encoded on demand."""


class PseudoLabelerComponent:
    """UST over cached views, or over views that are encoded anew each round."""

    def __init__(
        self, config: Config, pool: PoolReader, fresh: FreshSource | None = None, store: ViewStore | None = None
    ):
        from psp_ray.selftrain.service import PseudoLabeler

        self._pool = pool if fresh is None or store is not None else FreshPool(pool, fresh, config.model.view_count)
        self._views = None
        if fresh is not None and store is not None:
            self._views = ViewsOnDemand(fresh, store, config.model.view_count, pool.dim)
        self._settings = config.selftrain
        self._labeler = PseudoLabeler(self._pool, self._settings, pool)
        self._asked: tuple[TextState, Int64Array] | None = None
        self._planned: tuple[int, Int64Array] | None = None

    def encode_views(
        self,
        text: TextState,
        unlabeled: Int64Array,
        bought: Int64Array | None,
        round: int,
        labeled: Int64Array,
        labels: Int32Array,
    ) -> tuple[int, int]:
        """Encode and keep a portion of the views that `label` (`bought` is None) or `drop` will want on demand.

        Returns how many images got theirs now, and how many are left.
        """
        if self._views is None or (bought is not None) != self._labeler.source.uses_graph:
            return 0, 0
        chosen = self._candidates(text, unlabeled, bought, round, labeled, labels)
        return self._views.encode_some(chosen)

    def _candidates(
        self,
        text: TextState,
        unlabeled: Int64Array,
        bought: Int64Array | None,
        round: int,
        labeled: Int64Array,
        labels: Int32Array,
    ) -> Int64Array:
        """Sorted positions that are worth views in this round."""
        from psp_ray.selftrain.near import confidences, near_decision

        if self._planned is None or self._planned[0] != round:
            if bought is None:
                chosen = near_decision(unlabeled, *confidences(self._pool, text, unlabeled), self._settings)
            else:
                rest = np.setdiff1d(unlabeled, bought, assume_unique=True)
                rest = np.intersect1d(rest, self._labeler.graph().positions, assume_unique=True)
                chosen = near_decision(rest, *self._labeler.opinion(rest, labeled, labels), self._settings)
            self._planned = round, chosen
        return self._planned[1]

    def label(
        self, text: TextState, unlabeled: Int64Array, round: int, labeled: Int64Array, labels: Int32Array
    ) -> PseudoLabels:
        """Pseudo-labels for `unlabeled`; `labeled`, `labels` are what earlier rounds bought.

        With views on demand whose labels come from the graph, only `drop` knows which samples need views.
        """
        if self._views is not None:
            self._asked = text, unlabeled
            if self._labeler.source.uses_graph:
                return PseudoLabels.empty()
            chosen, self._planned = self._candidates(text, unlabeled, None, round, labeled, labels), None
            return self._labeler.label(text, chosen, round, labeled, labels, self._views)
        if isinstance(self._pool, FreshPool):
            self._pool.round = round
        return self._labeler.label(text, unlabeled, round, labeled=labeled, labels=labels)

    def drop(self, positions: Int64Array, round: int, labeled: Int64Array, labels: Int32Array) -> PseudoLabels:
        """What `label` gave without the query set `positions`; `labeled`, `labels` now hold this round's purchase."""
        if self._views is not None and self._labeler.source.uses_graph:
            assert self._asked is not None
            text, unlabeled = self._asked
            chosen, self._planned = self._candidates(text, unlabeled, positions, round, labeled, labels), None
            return self._labeler.label(text, chosen, round, labeled, labels, self._views)
        return self._labeler.drop(positions, round, labeled=labeled, labels=labels)


# -- where views come from ---------------------------------------------------------------------------------------


class FreshSource(Protocol):
    """Encodes views of pool positions for a round: (k, L, d) float16 for each piece of positions, in order.

    `width` pieces are worked on at a time.
    """

    @property
    def width(self) -> int: ...

    def encode(self, pieces: list[Int64Array], round: int) -> list[Float16Array]: ...


class FreshPool:
    """A `PoolReader` whose views are made anew for the current `round`."""

    def __init__(self, pool: PoolReader, source: FreshSource, n_views: int):
        self._pool, self._source, self._n_views = pool, source, n_views
        self.round = 1

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
        encoded = np.concatenate(self._source.encode(pieces, self.round))
        return FeatureBlock(block.index, block.start, block.keys, block.features, encoded)

    def rows(self, positions: Int64Array) -> Float16Array:
        return self._pool.rows(positions)


@dataclass(frozen=True)
class ViewStore:
    """The cache folder of a pool's views, and the images' content hashes (n, 16)."""

    folder: str
    hashes: np.ndarray


class ViewsOnDemand:
    """Cached views that are encoded when they are asked for; the next round, or run, finds them in the cache."""

    def __init__(self, source: FreshSource, store: ViewStore, n_views: int, dim: int):
        self._source, self._hashes, self._n_views = source, store.hashes, n_views
        self._store = FeatureStore(store.folder, "views", n_views * dim)

    def __call__(self, positions: Int64Array) -> Float16Array:
        """Views (k, L, d) of pool positions."""
        while self.encode_some(positions)[1]:
            pass
        found = self._store.gather(*self._store.locate(self._hashes[positions]))
        return found.reshape(len(positions), self._n_views, -1)

    def encode_some(self, positions: Int64Array) -> tuple[int, int]:
        """Encode and keep a portion of the views (k, L, d) that are lacking; returns how many images, and the rest.

        Raises OutputError where what was kept is not found again.
        """
        hashes = self._hashes[positions]
        lacking = np.flatnonzero(~self._store.contains(hashes))
        if not len(lacking):
            return 0, 0
        _, first = np.unique(hashes[lacking], axis=0, return_index=True)
        distinct = lacking[np.sort(first)]
        wanted = distinct[: VIEW_PIECES * self._source.width * VIEW_PIECE]
        pieces = [positions[wanted[i : i + VIEW_PIECE]] for i in range(0, len(wanted), VIEW_PIECE)]
        encoded = np.concatenate(self._source.encode(pieces, 0))
        self._store.write(hashes[wanted], encoded.reshape(len(wanted), -1))
        self._store.refresh()
        if not self._store.contains(hashes[wanted]).all():
            raise OutputError(f"{self._store.folder}: views written there are gone; leave the cache alone during a run")
        return len(wanted), len(distinct) - len(wanted)


@dataclass(frozen=True)
class ViewInput:
    """What a view worker is built from: the pool's images (`sample_id, path, image, split`) and their hashes.

    `store` is where views on demand are kept.
    """

    settings: str
    manifest: pa.Table
    hashes: np.ndarray
    store: ViewStore | None = None
