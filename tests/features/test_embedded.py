"""Embeddings of users in the cache: the same numbers as plain normalizing, once, with clear errors."""

import errno
import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psp_ray.core.errors import DatasetError, OutputError
from psp_ray.core.records import TextState
from psp_ray.data import load_dataset
from psp_ray.data.embedded.classes import read_class_embeddings
from psp_ray.features import embedded, mapped
from psp_ray.features.cache import FeatureCache
from psp_ray.features.embedded import embedding_stores, import_embeddings
from psp_ray.features.export import write_class_embeddings, write_features
from tests.data.test_embedded import NAMES, lists, numbers, write

N, D, L = 41, 6, 2


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(embedded, "BLOCK_ROWS", 8)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache.open(tmp_path / "cache")


def table(path, vectors, /, **columns):
    count = len(vectors)
    given = {
        "sample_id": [f"s{i:02d}" for i in reversed(range(count))],
        "label": [NAMES[i % 3] for i in range(count)],
        "part": [("pool", "pool", "val", "test")[i % 4] for i in range(count)],
        "embedding": lists(vectors, vectors.shape[1]),
    }
    return load_dataset(write(path, **given | columns))


def unit(values):
    wide = values.astype(np.float64)
    return (wide / np.linalg.norm(wide, axis=-1, keepdims=True)).astype(np.float16)


def test_parts_have_the_normalized_rows_in_the_order_of_their_names(tmp_path, cache):
    vectors, views = numbers(N, D), numbers(N, L, D)
    dataset = table(tmp_path / "a.parquet", vectors, views=lists(views.reshape(N, L * D)))
    told = []
    found = import_embeddings(dataset, cache, lambda done, total: told.append((done, total)))
    assert told[-1] == (N, N)
    assert found.n_encoded == N
    by_name = {f"s{N - 1 - i:02d}": i for i in range(N)}
    for ids, reader in ((found.sample_ids, found.pool), (found.test.sample_ids, found.test.reader)):
        at = [by_name[name] for name in ids]
        assert ids == sorted(ids)
        np.testing.assert_array_equal(reader.rows(np.arange(reader.n)), unit(vectors[at]))
    at = [by_name[name] for name in found.sample_ids]
    np.testing.assert_array_equal(found.pool.block(0, views=True).views, unit(views[at]))
    assert found.val.labels.tolist() == [by_name[name] % 3 for name in found.val.sample_ids]
    expected = [hashlib.blake2b(vectors[i].tobytes(), digest_size=16).hexdigest() for i in at]
    assert found.content_hashes == expected


def test_rows_are_taken_in_once_and_again_when_the_cache_lost_some(tmp_path, cache, monkeypatch):
    vectors = np.concatenate([numbers(N, D), numbers(3, D)])  # three rows are there twice
    dataset = table(tmp_path / "a.parquet", vectors)
    first = import_embeddings(dataset, cache)
    again = import_embeddings(dataset, cache)
    assert (first.n_encoded, again.n_encoded) == (N + 3, 0)
    assert again.content_hashes == first.content_hashes
    store, _ = embedding_stores(cache, dataset.embeddings)
    assert store.contains(first.pool.hashes).all()
    files = sorted((tmp_path / "cache" / f"embeddings-{D}" / "features").glob("*.arrow"))
    assert sum(pa.ipc.open_file(file).read_all().num_rows for file in files) <= N + 3
    files[0].unlink()
    whole = import_embeddings(dataset, cache)
    assert whole.n_encoded == N + 3
    np.testing.assert_array_equal(whole.pool.rows(np.arange(whole.pool.n)), first.pool.rows(np.arange(first.pool.n)))
    other = table(tmp_path / "b.parquet", vectors)  # the same numbers in another file
    monkeypatch.setattr(embedded, "unit_rows", None)  # nothing is left to normalize
    assert import_embeddings(other, cache).content_hashes == first.content_hashes


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "row 30 holds NaN or infinity"), (np.inf, "row 30 holds NaN"), (0.0, "row 30 is all zeros")],
)
def test_a_bad_row_is_named_by_file_and_row(tmp_path, cache, value, message):
    vectors = numbers(N, D)
    vectors[29] = 0.0
    vectors[29, 2] = value
    with pytest.raises(DatasetError, match=rf"a\.parquet: embedding: {message}"):
        import_embeddings(table(tmp_path / "a.parquet", vectors), cache)


def test_the_ledger_knows_a_row_by_its_image_where_there_is_one(tmp_path, cache):
    (tmp_path / "3.png").write_bytes(b"picture")
    paths = [f"{i}.png" for i in range(8)]
    vectors = np.random.default_rng(0).standard_normal((8, D)).astype(np.float32)
    dataset = table(tmp_path / "a.parquet", vectors, path=paths, part=["pool"] * 8)
    found = import_embeddings(dataset, cache)
    picture = hashlib.blake2b(b"picture", digest_size=16).hexdigest()
    assert [name for name, digest in zip(found.sample_ids, found.content_hashes, strict=True) if digest == picture] == [
        "s04"
    ]
    assert len(set(found.content_hashes)) == 8


def test_a_full_disk_and_a_file_that_changes_are_said(tmp_path, cache, monkeypatch):
    dataset = table(tmp_path / "a.parquet", numbers(N, D))
    monkeypatch.setattr(FeatureCache, "free_bytes", 10)
    with pytest.raises(OutputError, match=r"embeddings take .* MiB are free; make room"):
        import_embeddings(dataset, cache)
    monkeypatch.undo()
    table(tmp_path / "a.parquet", numbers(N - 9, D))
    with pytest.raises(DatasetError, match="was changed while it was read"):
        import_embeddings(dataset, cache)


def test_memory_holds_blocks_not_the_table(tmp_path, cache, monkeypatch):
    """Blocks come one at a time: no second one is asked for before the first is stored."""
    dataset = table(tmp_path / "a.parquet", numbers(N, D))
    sizes = [len(block.vectors) for block in dataset.embeddings.blocks(8)]
    assert max(sizes) <= 8
    assert sum(sizes) == N
    pq.write_table(pq.read_table(tmp_path / "a.parquet"), tmp_path / "big.parquet", row_group_size=5)
    big = load_dataset(str(tmp_path / "big.parquet"))
    assert max(len(block.vectors) for block in big.embeddings.blocks(8)) <= 8


def test_what_is_exported_is_read_again_bit_for_bit(tmp_path, cache):
    rng = np.random.default_rng(1)
    vectors, views = rng.standard_normal((N, D)), rng.standard_normal((N, L, D))
    dataset = table(tmp_path / "a.parquet", vectors, views=lists(views.reshape(N, L * D)))
    first = import_embeddings(dataset, cache)
    assert write_features(first, tmp_path / "out.parquet", {"model": "some"}) == N
    table_out = pq.read_table(tmp_path / "out.parquet")
    assert table_out.schema.metadata[b"model"] == b"some"
    assert table_out.schema.field("embedding").type == pa.list_(pa.float16(), D)
    again = import_embeddings(load_dataset(str(tmp_path / "out.parquet"), classes=",".join(NAMES)), cache)
    assert again.sample_ids == first.sample_ids
    for part in ("pool", "val", "test"):
        mine, theirs = (data.dataset.part(part)["sample_id"].to_pylist() for data in (first, again))
        assert mine == theirs
        np.testing.assert_array_equal(first.dataset.labels(part), again.dataset.labels(part))
    ours, theirs = first.pool.block(0, views=True), again.pool.block(0, views=True)
    np.testing.assert_array_equal(ours.features, theirs.features)
    np.testing.assert_array_equal(ours.views, theirs.views)
    text = TextState(np.eye(3, D, dtype=np.float32), 15.5)
    write_class_embeddings(NAMES, text, tmp_path / "classes.parquet")
    read = read_class_embeddings(str(tmp_path / "classes.parquet")).text_state(NAMES, D)
    np.testing.assert_array_equal(read.features, text.features)
    assert read.logit_scale == 15.5
    for bad in ("out.csv", "nowhere/out.parquet"):
        with pytest.raises(OutputError, match="--export"):
            write_features(first, tmp_path / bad)


def test_names_and_hashes_of_large_ones_are_mapped_and_the_same(tmp_path, cache, monkeypatch):
    vectors = numbers(N, D)
    given = table(tmp_path / "a.parquet", vectors)
    plain = import_embeddings(given, cache)
    monkeypatch.setattr(mapped, "LARGE_BYTES", 0)
    found = import_embeddings(mapped.mapped_dataset(given, cache.folder), cache)
    assert not found.pool.keys.flags.writeable
    assert not found.pool.hashes.flags.writeable
    assert found.dataset.manifest.equals(given.manifest)
    assert found.dataset.ground_truth.equals(given.ground_truth)
    assert found.dataset.embeddings.sample_ids.equals(given.embeddings.sample_ids)
    assert found.sample_ids == plain.sample_ids
    assert found.content_hashes == plain.content_hashes == list(plain.content_hashes)
    np.testing.assert_array_equal(found.pool.rows(np.arange(5)), plain.pool.rows(np.arange(5)))
    monkeypatch.setattr(mapped.tempfile, "TemporaryFile", refused)
    again = import_embeddings(mapped.mapped_dataset(given, cache.folder), cache)
    assert again.sample_ids == plain.sample_ids, "where there is no room, they stay in memory"


def refused(**options):
    raise OSError(errno.ENOSPC, "no space left")
