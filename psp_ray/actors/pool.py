"""Pool shards: actors that hold a whole number of fixed blocks and hand them out as Arrow tables."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from psp_ray.actors.shell import wait_for
from psp_ray.actors.transport import Packet, unpack
from psp_ray.core.light import spare_pandas
from psp_ray.core.records import BLOCK_SIZE, FeatureBlock, Float16Array, Int64Array, UInt64Array
from psp_ray.features.pool import CachedPool, block_from_table, block_to_table

CACHE_BYTES = 256 * 2**20
"""Blocks that a reader keeps at hand. Within a node they are shared memory, not copies."""


class PoolShard:
    """Blocks `first_block .. last_block - 1` of the pool, memory-mapped. It keeps no state: Ray may restart it."""

    def __init__(self, source: Packet, first_block: int, last_block: int):
        spare_pandas()
        whole: CachedPool = unpack(source).open()
        mine = slice(first_block * BLOCK_SIZE, last_block * BLOCK_SIZE)
        self._pool = CachedPool(whole.features, whole.hashes[mine], whole.keys[mine], whole.views)
        self._first, self._last = first_block, last_block

    def block(self, index: int, views: bool) -> pa.Table:
        if not self._first <= index < self._last:
            raise IndexError(f"block {index} is not in this shard ({self._first}..{self._last - 1})")
        block = self._pool.block(index - self._first, views=views)
        return block_to_table(replace(block, index=index, start=index * BLOCK_SIZE))

    def keys(self) -> pa.Table:
        """Noise keys of the shard's samples, one column."""
        return pa.table({"keys": self._pool.keys})

    def rows(self, positions: Int64Array) -> pa.Table:
        """Features at `positions`, which lie in this shard, one column of d half floats."""
        features = self._pool.rows(positions - self._first * BLOCK_SIZE)
        flat = pa.array(np.ascontiguousarray(features).reshape(-1))
        return pa.table({"features": pa.FixedSizeListArray.from_arrays(flat, features.shape[1])})


@dataclass(frozen=True)
class PoolShape:
    """What a reader knows without asking: samples, width, views, and the first block of each shard."""

    n: int
    dim: int
    n_views: int
    first_blocks: list[int]


class ShardedPool:
    """A `PoolReader` over pool shards; the next block is on its way while the last one is used."""

    def __init__(self, shape: PoolShape, shards: list[Any], timeout: float):
        self._shape, self._shards, self._timeout = shape, shards, timeout
        self._cache: OrderedDict[tuple[int, bool], pa.Table] = OrderedDict()
        self._cached_bytes = 0
        self._ahead: dict[tuple[int, bool], ray.ObjectRef[Any]] = {}

    @property
    def n(self) -> int:
        return self._shape.n

    @property
    def dim(self) -> int:
        return self._shape.dim

    @property
    def n_views(self) -> int:
        return self._shape.n_views

    @property
    def n_blocks(self) -> int:
        return -(-self.n // BLOCK_SIZE)

    @property
    def block_size(self) -> int:
        return BLOCK_SIZE

    @cached_property
    def keys(self) -> UInt64Array:
        """Noise keys (n,), without their features."""
        asked = [shard.keys.remote() for shard in self._shards]
        parts = [wait_for(reference, "pool shard, keys", self._timeout)["keys"].to_numpy() for reference in asked]
        return np.concatenate(parts) if len(parts) > 1 else np.asarray(parts[0])

    def block(self, index: int, *, views: bool = False) -> FeatureBlock:
        key = (index, views)
        table = self._cache.get(key)
        if table is None:
            reference = self._ahead.pop(key, None) or self._request(key)
            following = (index + 1, views)
            if index + 1 < self.n_blocks and following not in self._cache and following not in self._ahead:
                self._ahead[following] = self._request(following)
            table = wait_for(reference, f"pool shard, block {index}", self._timeout)
            self._keep(key, table)
        else:
            self._cache.move_to_end(key)
        return block_from_table(table)

    def rows(self, positions: Int64Array) -> Float16Array:
        positions = np.asarray(positions, np.int64)
        owner = np.searchsorted(self._shape.first_blocks, positions // BLOCK_SIZE, side="right") - 1
        out = np.empty((len(positions), self.dim), np.float16)
        asked = [
            (np.flatnonzero(owner == shard), self._shards[shard].rows.remote(positions[owner == shard]))
            for shard in np.unique(owner)
        ]
        for places, reference in asked:
            column = wait_for(reference, "pool shard, rows", self._timeout)["features"].combine_chunks()
            out[places] = column.flatten().to_numpy().reshape(len(places), self.dim)
        return out

    def _request(self, key: tuple[int, bool]) -> ray.ObjectRef[Any]:
        shard = int(np.searchsorted(self._shape.first_blocks, key[0], side="right")) - 1
        reference: ray.ObjectRef[Any] = self._shards[shard].block.remote(*key)
        return reference

    def _keep(self, key: tuple[int, bool], table: pa.Table) -> None:
        if table.nbytes > CACHE_BYTES:
            return
        self._cache[key] = table
        self._cached_bytes += table.nbytes
        while self._cached_bytes > CACHE_BYTES:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= dropped.nbytes


def first_blocks(n: int, shards: int) -> list[int]:
    """First block of each shard: whole blocks, as even as possible; fewer shards than asked for on small pools."""
    blocks = -(-n // BLOCK_SIZE)
    shards = max(1, min(shards, blocks))
    return [blocks * shard // shards for shard in range(shards)]
