"""Reading cached features: the pool block by block, val and test, and blocks as Arrow tables. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from psp_ray.core.errors import OutputError
from psp_ray.core.records import BLOCK_SIZE, FeatureBlock, Float16Array, Int32Array, Int64Array, UInt64Array
from psp_ray.features.cache import FeatureStore
from psp_ray.features.segments import HashArray, half_lists, half_matrix


@dataclass(eq=False)
class CachedPool:
    """A `PoolReader` over the feature cache: memory-mapped segments, gathered block by block.

    Pickles as paths and hashes (24 bytes an image), so that another process can open it; nothing is read before the
    first block is asked for.
    """

    features: FeatureStore
    hashes: HashArray
    """Content hashes (n, 16) uint8 in manifest order."""
    keys: UInt64Array
    """Noise keys (n,) of the sample_ids."""
    views: FeatureStore | None = None
    _places: dict[str, tuple[Int32Array, Int32Array]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.hashes) != len(self.keys):
            raise ValueError(f"{len(self.hashes)} hashes but {len(self.keys)} keys")

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("features", "hashes", "keys", "views")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def n(self) -> int:
        return len(self.hashes)

    @property
    def dim(self) -> int:
        return self.features.width

    @property
    def n_views(self) -> int:
        return 0 if self.views is None else self.views.width // self.dim

    @property
    def n_blocks(self) -> int:
        return -(-self.n // BLOCK_SIZE)

    @property
    def block_size(self) -> int:
        return BLOCK_SIZE

    def block(self, index: int, *, views: bool = False) -> FeatureBlock:
        """Block `index`: features (m, d), with `views` (m, L, d), where the pool has views."""
        if not 0 <= index < self.n_blocks:
            raise IndexError(f"block {index} of {self.n_blocks}")
        start = index * BLOCK_SIZE
        span = slice(start, min(start + BLOCK_SIZE, self.n))
        seen = None
        if views and self.views is not None:
            seen = self._gather(self.views, span).reshape(-1, self.n_views, self.dim)
        return FeatureBlock(index, start, self.keys[span], self._gather(self.features, span), seen)

    def rows(self, positions: Int64Array) -> Float16Array:
        """Features (k, d) at `positions`, in the order asked for."""
        return self._gather(self.features, np.asarray(positions, np.int64))

    def views_at(self, positions: Int64Array) -> Float16Array:
        """Views (k, L * d) at `positions`, those of a sample one behind the other. Raises ValueError without views."""
        if self.views is None:
            raise ValueError("this pool has no views")
        return self._gather(self.views, np.asarray(positions, np.int64))

    def _gather(self, store: FeatureStore, which: slice | Int64Array) -> Float16Array:
        places = self._places.get(store.column)
        if places is None:
            places = store.locate(self.hashes)
            store.forget_index()
            absent = int((places[0] < 0).sum())
            if absent:
                raise OutputError(
                    f"feature cache {store.folder} lacks {absent} of {self.n} images; run again to encode them, and "
                    "check that every node sees this folder"
                )
            self._places[store.column] = places
        return store.gather(places[0][which], places[1][which])


@dataclass(frozen=True)
class SplitFeatures:
    """Features of val or test with their true labels, for the evaluator."""

    sample_ids: Sequence[str]
    reader: CachedPool
    labels: Int32Array | None
    """True labels (n,) int32, None where nobody knows them."""

    @property
    def n(self) -> int:
        return self.reader.n

    def load(self) -> Float16Array:
        """All features (n, d) float16 at once."""
        return self.reader.rows(np.arange(self.reader.n))


def block_to_table(block: FeatureBlock) -> pa.Table:
    """`keys` uint64, `features` and perhaps `views` fixed_size_list<halffloat>, without copying contiguous arrays."""
    columns: dict[str, pa.Array] = {
        "keys": pa.array(block.keys, pa.uint64()),
        "features": half_lists(block.features),
    }
    shape = {"index": block.index, "start": block.start}
    if block.views is not None:
        count, n_views, dim = block.views.shape
        columns["views"] = half_lists(block.views.reshape(count, n_views * dim))
        shape["n_views"] = n_views
    return pa.table(columns).replace_schema_metadata({key: str(value) for key, value in shape.items()})


def block_from_table(table: pa.Table) -> FeatureBlock:
    """The block that `block_to_table` was given; arrays are read-only views of the table's buffers."""
    metadata = table.schema.metadata
    views = None
    if "views" in table.column_names:
        flat = half_matrix(table["views"])
        n_views = int(metadata[b"n_views"])
        views = flat.reshape(len(flat), n_views, flat.shape[1] // n_views)
    return FeatureBlock(
        index=int(metadata[b"index"]),
        start=int(metadata[b"start"]),
        keys=table["keys"].to_numpy(),
        features=half_matrix(table["features"]),
        views=views,
    )
