"""Reading the pool: blocks, rows, Arrow tables, other processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psp_ray.core.errors import OutputError
from psp_ray.core.noise import sample_keys
from psp_ray.core.records import FeatureBlock, PoolReader
from psp_ray.features import pool as module
from psp_ray.features.cache import FeatureStore
from psp_ray.features.pool import CachedPool, block_from_table, block_to_table
from tests.helpers import ArrayPool


def cached_pool(folder: Path, n: int, dim: int = 3, views: int = 2, seed: int = 0):
    """A pool whose images lie scattered over several segments, and the plain arrays behind it."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 256, (n, 16), dtype=np.uint8)
    features = rng.standard_normal((n, dim)).astype(np.float16)
    seen = rng.standard_normal((n, views, dim)).astype(np.float16)
    stores = FeatureStore(str(folder / "f"), "features", dim), FeatureStore(str(folder / "v"), "views", views * dim)
    for part in np.array_split(rng.permutation(n), 4):
        stores[0].write(hashes[part], features[part])
        stores[1].write(hashes[part], seen[part].reshape(len(part), views * dim))
    ids = [f"image-{i}" for i in range(n)]
    return CachedPool(stores[0], hashes, sample_keys(ids), stores[1]), ArrayPool(features, seen, ids, block_size=10)


def views_of(pool):
    return np.concatenate([pool.block(index, views=True).views for index in range(pool.n_blocks)])


@given(n=st.integers(1, 60), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_blocks_and_rows_are_those_of_plain_arrays(tmp_path_factory, n, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_SIZE", 10)
        pool, plain = cached_pool(tmp_path_factory.mktemp("pool"), n, seed=seed)
        reader: PoolReader = pool
        assert (reader.n, reader.dim, reader.n_views, reader.n_blocks) == (n, 3, 2, plain.n_blocks)
        total = 0
        for index in range(reader.n_blocks):
            ours, theirs = reader.block(index, views=True), plain.block(index, views=True)
            assert (ours.index, ours.start) == (theirs.index, theirs.start) == (index, total)
            for name in ("keys", "features", "views"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
            assert reader.block(index).views is None
            total += len(ours.features)
        assert total == n
        positions = np.random.default_rng(seed).integers(0, n, 17)
        np.testing.assert_array_equal(reader.rows(positions), plain.rows(positions))
        assert reader.rows(positions[:0]).shape == (0, 3)
        for bad in (-1, reader.n_blocks):
            with pytest.raises(IndexError):
                reader.block(bad)


def test_block_size_is_the_shared_one(tmp_path):
    pool, _ = cached_pool(tmp_path, 4100)
    assert pool.n_blocks == 2
    assert len(pool.block(0).features) == 4096
    assert pool.block(1).start == 4096


def test_another_process_opens_it_by_path(tmp_path):
    pool, plain = cached_pool(tmp_path, 500)
    pool.block(0, views=True)
    data = pickle.dumps(pool)
    assert len(data) < 500 * 24 + 1500
    copy = pickle.loads(data)
    np.testing.assert_array_equal(copy.block(0, views=True).views, views_of(plain))


def test_a_cache_that_lacks_images_is_an_error_with_numbers(tmp_path):
    pool, _ = cached_pool(tmp_path, 40)
    next((tmp_path / "v").glob("*.arrow")).unlink()
    pool.block(0)
    with pytest.raises(OutputError, match="lacks 10 of 40 images"):
        pool.block(0, views=True)


def test_keys_must_match():
    with pytest.raises(ValueError, match="keys"):
        CachedPool(FeatureStore("x", "features", 3), np.zeros((3, 16), np.uint8), np.zeros(2, np.uint64))


@given(m=st.integers(0, 20), dim=st.integers(1, 8), n_views=st.integers(0, 4), start=st.integers(0, 10**6))
def test_blocks_become_tables_and_back_without_copies(m, dim, n_views, start):
    rng = np.random.default_rng(m)
    features = rng.standard_normal((m, dim)).astype(np.float16)
    views = rng.standard_normal((m, n_views, dim)).astype(np.float16) if n_views else None
    block = FeatureBlock(3, start, rng.integers(0, 2**63, m).astype(np.uint64), features, views)
    table = block_to_table(block)
    assert table.schema.field("features").type == pa.list_(pa.float16(), dim)
    again = block_from_table(table)
    assert (again.index, again.start) == (3, start)
    np.testing.assert_array_equal(again.keys, block.keys)
    np.testing.assert_array_equal(again.features, features)
    if views is None:
        assert again.views is None
    else:
        np.testing.assert_array_equal(again.views, views)
    if m:
        assert np.shares_memory(again.features, features)
        assert views is None or np.shares_memory(again.views, views)


def test_tables_survive_ipc(tmp_path):
    pool, plain = cached_pool(tmp_path, 30)
    table = block_to_table(pool.block(0, views=True))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    again = block_from_table(pa.ipc.open_stream(sink.getvalue()).read_all())
    np.testing.assert_array_equal(again.views, views_of(plain))
