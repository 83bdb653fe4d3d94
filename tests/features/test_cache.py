"""The feature cache: what is written comes back, damage is found, and writers don't disturb each other."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psp_ray.clip.preprocess import Preprocessing
from psp_ray.core.errors import OutputError
from psp_ray.data.images import ViewSettings, content_hash
from psp_ray.features import cache
from psp_ray.features.cache import (
    EncoderSpec,
    FeatureCache,
    FeatureStore,
    default_cache_folder,
)
from psp_ray.features.hashes import hash_manifest
from psp_ray.features.segments import half_lists, half_matrix
from tests.data.made import class_folders

SPEC = EncoderSpec("abc", Preprocessing(size=(16, 16)), 5)


def random_hashes(rng: np.random.Generator, count: int) -> np.ndarray:
    hashes = rng.integers(0, 256, (count, 16), dtype=np.uint8)
    hashes[::3, -2:] = 0  # trailing zero bytes are where strings of bytes go wrong
    hashes[1::5, 0] = 0
    return hashes


def store(folder: Path, width: int = 5) -> FeatureStore:
    return FeatureStore(str(folder), "features", width)


def vectors_of(hashes: np.ndarray, width: int = 5) -> np.ndarray:
    """A vector that is a function of the hash, so that any mix-up shows."""
    return (hashes[:, :width].astype(np.float16) + hashes[:, width : 2 * width] / 256).astype(np.float16)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_what_is_written_comes_back(tmp_path_factory, sizes, seed):
    folder = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(seed)
    parts = [random_hashes(rng, size) for size in sizes]
    for part in parts:
        store(folder).write(part, vectors_of(part))
    every = np.concatenate(parts)[rng.permutation(sum(sizes))]
    reader = store(folder)
    segment, row = reader.locate(every, verify=True)
    assert (segment >= 0).all()
    np.testing.assert_array_equal(reader.gather(segment, row), vectors_of(every))
    assert not reader.contains(rng.integers(0, 256, (20, 16), dtype=np.uint8)).any()


def test_hashes_that_begin_alike_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LOOKED_UP", 4)  # hashes looked up at a time
    hashes = np.full((12, 16), 7, np.uint8)
    hashes[:, 8] = np.arange(12)
    for part in (hashes[:5], hashes[5:6], hashes[6:], hashes[2:4]):
        store(tmp_path).write(part, vectors_of(part))
    reader = store(tmp_path)
    np.testing.assert_array_equal(reader.gather(*reader.locate(hashes[::-1])), vectors_of(hashes[::-1]))
    other = hashes[:3].copy()
    other[:, 8] = [12, 13, 255]
    assert reader.contains(np.concatenate([other, hashes[:1]])).tolist() == [False] * 3 + [True]
    reader.forget_index()
    assert reader.contains(hashes).all()


def test_segments_are_uncompressed_arrow_files_of_the_stated_schema(tmp_path):
    hashes = random_hashes(np.random.default_rng(0), 7)
    store(tmp_path).write(hashes, vectors_of(hashes))
    (file,) = tmp_path.glob("*.arrow")
    with pa.memory_map(str(file)) as source:
        before = pa.total_allocated_bytes()
        table = pa.ipc.open_file(source).read_all()
        assert pa.total_allocated_bytes() - before < 1024  # mapped, not read: nothing was decompressed
    assert table.schema.types == [pa.binary(16), pa.list_(pa.float16(), 5)]
    assert table["content_hash"].to_pylist() == [row.tobytes() for row in hashes]


def test_same_images_make_the_same_file_and_empty_writes_none(tmp_path):
    hashes = random_hashes(np.random.default_rng(0), 7)
    for _ in range(2):
        store(tmp_path).write(hashes, vectors_of(hashes))
    store(tmp_path).write(hashes[:0], vectors_of(hashes[:0]))
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="width 5"):
        store(tmp_path).write(hashes, np.zeros((7, 4), np.float16))


def test_a_reader_takes_up_new_segments_and_keeps_what_it_mapped(tmp_path):
    rng = np.random.default_rng(1)
    first, second = random_hashes(rng, 6), random_hashes(rng, 4)
    reader = store(tmp_path)
    assert not reader.contains(first).any()
    store(tmp_path).write(first, vectors_of(first))
    assert reader.contains(first).all()
    store(tmp_path).write(second, vectors_of(second))
    assert not reader.contains(second).any()
    reader.refresh()
    assert reader.contains(second).all()
    places = reader.locate(first)
    for file in tmp_path.iterdir():
        file.unlink()
    np.testing.assert_array_equal(reader.gather(*places), vectors_of(first))


def test_pickles_by_path(tmp_path):
    hashes = random_hashes(np.random.default_rng(2), 300)
    reader = store(tmp_path)
    reader.write(hashes, vectors_of(hashes))
    assert reader.contains(hashes).all()
    data = pickle.dumps(reader)
    assert len(data) < 500
    np.testing.assert_array_equal(pickle.loads(data).locate(hashes), reader.locate(hashes))


@pytest.mark.parametrize("damage", ["truncate", "empty", "footer", "payload", "hashes", "foreign"])
def test_damage_is_set_aside_and_only_its_images_are_absent(tmp_path, damage):
    rng = np.random.default_rng(3)
    good, bad = random_hashes(rng, 50), random_hashes(rng, 60)
    store(tmp_path).write(good, vectors_of(good))
    (kept,) = tmp_path.glob("*.arrow")
    store(tmp_path).write(bad, vectors_of(bad))
    (file,) = set(tmp_path.glob("*.arrow")) - {kept}
    data = bytearray(file.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    elif damage == "empty":
        data = bytearray()
    elif damage == "footer":
        data[-8:] = b"\0" * 8
    elif damage == "payload":
        place = data.find(vectors_of(bad).tobytes())
        data[place + 11] ^= 1
    elif damage == "hashes":
        data[data.find(bad.tobytes()) + 5] ^= 1
    else:
        data = bytearray(b"something else entirely")
    file.write_bytes(data)
    reader = store(tmp_path)
    assert reader.contains(good, verify=True).all()
    assert not reader.contains(bad, verify=True)[0]  # with a flipped hash bit the others are located, then unmasked
    assert not reader.contains(bad, verify=True).any()
    assert file.with_name(file.name + ".corrupt").exists()
    assert not file.exists()
    reader.write(bad, vectors_of(bad))
    reader.refresh()
    segment, row = reader.locate(bad, verify=True)
    np.testing.assert_array_equal(reader.gather(segment, row), vectors_of(bad))


def test_leftovers_of_a_killed_run_are_ignored_and_swept_when_old(tmp_path):
    hashes = random_hashes(np.random.default_rng(4), 8)
    store(tmp_path).write(hashes, vectors_of(hashes))
    fresh, old = tmp_path / ".a-1.tmp", tmp_path / ".b-2.tmp"
    for file in (fresh, old):
        file.write_bytes(b"half a segm")
    long_ago = time.time() - 3 * 86_400
    os.utime(old, (long_ago, long_ago))
    reader = store(tmp_path)
    assert reader.contains(hashes).all()
    reader.remove_stale_files()
    assert fresh.exists()
    assert not old.exists()
    FeatureStore(str(tmp_path / "no such"), "features", 5).remove_stale_files()


def _write_many(folder: str, seeds: list[int]) -> None:
    for seed in seeds:
        hashes = random_hashes(np.random.default_rng(seed), 20)
        FeatureStore(folder, "features", 5).write(hashes, vectors_of(hashes))


def test_concurrent_writers(tmp_path):
    context = multiprocessing.get_context("spawn")
    seeds = [[0, 1, 2, 3, 4, 5], [5, 6, 4, 3, 7, 1]]  # most segments are written twice
    writers = [context.Process(target=_write_many, args=(str(tmp_path), part)) for part in seeds]
    for writer in writers:
        writer.start()
    reader = store(tmp_path)
    while any(writer.is_alive() for writer in writers):
        reader.refresh()  # reads beside the writers; must never see half a segment
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert not list(tmp_path.glob("*.corrupt"))
    assert not list(tmp_path.glob(".*.tmp"))
    assert len(list(tmp_path.glob("*.arrow"))) == 8
    for seed in range(8):
        hashes = random_hashes(np.random.default_rng(seed), 20)
        reader.refresh()
        segment, row = reader.locate(hashes, verify=True)
        np.testing.assert_array_equal(reader.gather(segment, row), vectors_of(hashes))


def test_many_segments_need_few_descriptors(tmp_path):
    rng = np.random.default_rng(5)
    parts = [random_hashes(rng, 2) for _ in range(60)]
    for part in parts:
        store(tmp_path).write(part, vectors_of(part))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else pytest.skip("no /proc here")
    reader = store(tmp_path)
    assert reader.contains(np.concatenate(parts)).all()
    assert len(os.listdir("/proc/self/fd")) - before < 5


def test_keys_separate_whatever_changes_the_numbers(tmp_path):
    prep = SPEC.preprocessing
    others = [
        EncoderSpec("abd", prep, 5),
        EncoderSpec("abc", prep, 6),
        EncoderSpec("abc", Preprocessing(size=(16, 17)), 5),
        EncoderSpec("abc", Preprocessing(size=(16, 16), mean=(0.5, 0.5, 0.5)), 5),
        EncoderSpec("abc", prep, 5, "fp16"),
    ]
    assert len({SPEC.key, *(other.key for other in others)}) == 6
    assert EncoderSpec("abc", Preprocessing(size=(16, 16)), 5).key == SPEC.key
    cache = FeatureCache.open(tmp_path)
    views = [ViewSettings(), ViewSettings(seed=1), ViewSettings(flip=False), ViewSettings(scale_min=0.6)]
    assert len({cache.views(SPEC, view).folder for view in views}) == 4
    assert cache.views(SPEC, ViewSettings(count=3)).width == 15
    cache.describe(SPEC, views[0])
    assert (cache.encoder_folder(SPEC) / "encoder.json").read_text().count("abc") == 1


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PSP_RAY_CACHE", str(tmp_path / "here"))
    assert default_cache_folder() == tmp_path / "here"
    assert FeatureCache.open().folder == str(tmp_path / "here")
    assert (tmp_path / "here").is_dir()
    monkeypatch.delenv("PSP_RAY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_folder() == tmp_path / "xdg" / "psp-ray"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_folder() == Path.home() / ".cache" / "psp-ray"


def test_an_unusable_cache_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="PSP_RAY_CACHE") as caught:
        FeatureCache.open(tmp_path / "file" / "cache")
    assert "\n" not in str(caught.value)
    hashes = random_hashes(np.random.default_rng(0), 3)
    with pytest.raises(OutputError, match="can't be written"):
        store(tmp_path / "file").write(hashes, vectors_of(hashes))


def test_half_columns_are_not_copied():
    values = np.arange(12, dtype=np.float16).reshape(4, 3)
    column = half_lists(values)
    assert column.type == pa.list_(pa.float16(), 3)
    assert column.to_pylist() == values.tolist()
    assert np.shares_memory(half_matrix(column), values)
    np.testing.assert_array_equal(half_matrix(column.slice(1, 2)), values[1:3])
    np.testing.assert_array_equal(half_matrix(pa.chunked_array([column, column])), np.concatenate([values, values]))


# -- content hashes of files -------------------------------------------------------------------------------------


def manifest_of(paths):
    count = len(paths)
    return pa.table({"path": [str(path) for path in paths], "image": pa.nulls(count, pa.binary())})


def age(path: Path, seconds: float) -> None:
    then = time.time_ns() - int(seconds * 1e9)
    os.utime(path, ns=(then, then))


def test_unchanged_files_are_not_read_again(tmp_path, monkeypatch):
    paths = sorted(class_folders(tmp_path / "data", per_class=3).rglob("*.png"))
    for path in paths:
        age(path, 60)
    first = hash_manifest(manifest_of(paths), tmp_path / "cache", root="r")
    expected = [content_hash(path.read_bytes()) for path in paths]
    assert [row.tobytes() for row in first.values] == expected
    assert not first.unreadable
    read: list[str] = []
    from psp_ray.features import hashes as module

    real = module.read_file
    monkeypatch.setattr(module, "read_file", lambda path: read.append(path) or real(path))
    again = hash_manifest(manifest_of(paths), tmp_path / "cache", root="r")
    np.testing.assert_array_equal(again.values, first.values)
    assert read == []
    paths[2].write_bytes(paths[0].read_bytes())
    age(paths[2], 30)
    changed = hash_manifest(manifest_of(paths), tmp_path / "cache", root="r")
    assert read == [str(paths[2])]
    assert changed.values[2].tobytes() == expected[0]
    # Another part of the same data set neither forgets the rest nor is told it.
    hash_manifest(manifest_of(paths[:1]), tmp_path / "cache", root="r")
    hash_manifest(manifest_of(paths), tmp_path / "cache", root="r")
    assert read == [str(paths[2])]


def test_a_path_that_is_there_twice_is_remembered_once(tmp_path):
    paths = sorted(class_folders(tmp_path / "data", per_class=2).rglob("*.png"))
    for number, path in enumerate(paths):
        age(path, 60 + number)
    twice = [paths[1], paths[0], paths[1]]
    found = hash_manifest(manifest_of(twice), tmp_path / "cache", root="r")
    assert [row.tobytes() for row in found.values] == [content_hash(path.read_bytes()) for path in twice]
    hash_manifest(manifest_of(paths[:3]), tmp_path / "cache", root="r")
    (index,) = (tmp_path / "cache" / "hashes").glob("*.parquet")
    rows = {row["path"]: row for row in pq.read_table(index).to_pylist()}
    assert pq.read_table(index).num_rows == len(rows) == 3
    for path in paths[:3]:
        stat = path.stat()
        assert (rows[str(path)]["size"], rows[str(path)]["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns)
        assert rows[str(path)]["content_hash"] == content_hash(path.read_bytes())


def test_recently_changed_files_are_not_trusted_to_their_time_stamp(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    stamp = path.stat().st_mtime_ns
    first = hash_manifest(manifest_of([path]), tmp_path / "cache")
    path.write_bytes(b"two")
    os.utime(path, ns=(stamp, stamp))
    second = hash_manifest(manifest_of([path]), tmp_path / "cache")
    assert first.values[0].tobytes() == content_hash(b"one")
    assert second.values[0].tobytes() == content_hash(b"two")


def test_missing_files_are_named_and_a_damaged_index_is_rebuilt(tmp_path):
    paths = sorted(class_folders(tmp_path / "data", per_class=2).rglob("*.png"))
    for path in paths:
        age(path, 60)
    told: list[tuple[int, int]] = []
    hash_manifest(manifest_of(paths), tmp_path / "cache", progress=lambda *args: told.append(args))
    assert told[-1] == (4, 4)
    (index,) = (tmp_path / "cache" / "hashes").glob("*.parquet")
    index.write_bytes(b"junk")
    paths[1].unlink()
    found = hash_manifest(manifest_of(paths), tmp_path / "cache")
    assert found.unreadable == {1: "file not found"}
    assert found.values[0].any()


def test_pieces_of_a_stream_are_joined_and_lost_by_no_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "JOINED_BYTES", 40 * 2 * 5)  # 40 rows
    hashes = random_hashes(np.random.default_rng(0), 100)
    writer, early = store(tmp_path), store(tmp_path)
    for at in range(0, 100, 8):
        if at == 48:
            writer = store(tmp_path)  # the first was killed: what it wrote stays, joined or not
        piece = hashes[at : at + 8]
        writer.append(piece, vectors_of(piece))
        early.refresh()
        done = min(at + 8, 100)
        assert store(tmp_path).contains(hashes, verify=True).tolist() == [True] * done + [False] * (100 - done)
    assert len(list(tmp_path.glob("*.arrow"))) == 5  # 40 rows; 8 left by the first writer; 40; 8 and 4 in pieces
    for reader in (store(tmp_path), early):
        np.testing.assert_array_equal(reader.gather(*reader.locate(hashes)), vectors_of(hashes))


def test_a_system_that_refuses_to_open_a_segment_costs_nothing(tmp_path, monkeypatch):
    hashes = random_hashes(np.random.default_rng(0), 4)
    store(tmp_path).write(hashes, vectors_of(hashes))

    def refuse(path):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(pa, "memory_map", refuse)
        with pytest.raises(OutputError, match="Too many open files"):
            store(tmp_path).refresh()
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"]
    assert store(tmp_path).contains(hashes).all()
