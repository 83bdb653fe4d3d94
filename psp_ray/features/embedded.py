"""Embeddings of users in the feature cache: normalized, in half precision, written once, block by block.

    CACHE/embeddings-DIM/features/*.arrow     as those of encoded images, but by the hash of a row's own numbers
    CACHE/embeddings-DIM/views-L/*.arrow      the same rows' views
    CACHE/embedded/SOURCE.arrow               row hashes and content hashes of a source's rows, in their order

Two sources with the same numbers share their rows. Memory doesn't grow with the data set but for 32 bytes a row while
they are taken in; after that hashes and names of a large one are mapped files.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from psp_ray.core.errors import DatasetError, OutputError
from psp_ray.core.files import write_bytes, write_with
from psp_ray.core.names import Digests, Names
from psp_ray.core.records import Float16Array
from psp_ray.core.writing import writing
from psp_ray.data.dataset import Dataset
from psp_ray.data.embedded.classes import unit_rows
from psp_ray.data.embedded.source import Block, EmbeddingSource
from psp_ray.data.embedded.vectors import more_rows
from psp_ray.data.images import HASH_BYTES, is_url
from psp_ray.features.cache import FeatureCache, FeatureStore
from psp_ray.features.featurize import FeaturizedDataset, open_features
from psp_ray.features.hashes import hash_manifest
from psp_ray.features.mapped import mapped_array
from psp_ray.features.segments import HashArray, as_strings

BLOCK_ROWS = 1 << 14
"""Rows read, checked and normalized at a time."""
UNIT_TOLERANCE = 1e-3
"""How far rounding to half precision may take a unit vector's length from 1."""
_VERSION = 1
Told = Callable[[int, int], None]
"""Told how many rows of how many are done."""
_INDEX = pa.schema([("row_hash", pa.binary(HASH_BYTES)), ("content_hash", pa.binary(HASH_BYTES))])


def embedding_stores(cache: FeatureCache, source: EmbeddingSource) -> tuple[FeatureStore, FeatureStore | None]:
    """The stores of a source's embeddings and of its views."""
    folder = Path(cache.folder) / f"embeddings-{source.dim}"
    views = None
    if source.n_views:
        views = FeatureStore(str(folder / f"views-{source.n_views}"), "views", source.n_views * source.dim)
    return FeatureStore(str(folder / "features"), "features", source.dim), views


def import_embeddings(dataset: Dataset, cache: FeatureCache, told: Told | None = None) -> FeaturizedDataset:
    """Readers over a data set's own embeddings, which are taken into the cache unless they are there.

    Pool, val and test have the embeddings, L2-normalized; the pool has its views too. The content hash, by which the
    ledger knows a sample, is that of its image where there is one, else that of its embedding's bytes.

    Raises:
        DatasetError: in one line with file and row: NaN, infinity, zeros, or a row of another length.
        OutputError: the cache's disk is too small or full.
    """
    start = time.perf_counter()
    source = dataset.embeddings
    if source is None:
        raise ValueError(f"{dataset.name} brings no embeddings")
    features, views = embedding_stores(cache, source)
    index = _index_file(cache, source)
    hashes = _read_index(index, source.n_rows)
    taken = 0
    if hashes is None or not _all_there(hashes[0], features, views, source):
        _require_space(cache, source)
        rows, plain = _take_in(source, features, views, told)
        hashes = rows, _content_hashes(dataset, source, plain, cache)
        taken = source.n_rows
        _describe(cache, source)
        _write_index(index, *hashes)
        hashes = _read_index(index, source.n_rows) or hashes  # from the file, which is no memory of ours
    rows, content = (part[_rows_of(dataset, source)] for part in hashes)
    found = open_features(dataset, rows, features, views, cache.folder)
    in_pool = pc.equal(dataset.manifest["split"], "pool").to_numpy()
    names = Digests(mapped_array(content[in_pool], cache.folder))
    return replace(found, content_hashes=names, n_encoded=taken, seconds=time.perf_counter() - start)


def _rows_of(dataset: Dataset, source: EmbeddingSource) -> NDArray[np.int64] | slice:
    """Where the manifest's samples are among the source's rows."""
    ids = dataset.manifest["sample_id"]
    if ids.equals(pa.chunked_array([source.sample_ids])):
        return slice(None)
    place: NDArray[np.int64] = pc.index_in(ids, value_set=source.sample_ids).to_numpy()
    return place


def _take_in(
    source: EmbeddingSource, features: FeatureStore, views: FeatureStore | None, told: Told | None
) -> tuple[HashArray, HashArray]:
    """Check, normalize and store all rows; returns (n, 16) hashes of the rows, and of their embeddings alone."""
    rows, plain = (np.empty((source.n_rows, HASH_BYTES), np.uint8) for _ in range(2))
    wanted = [store for store in (features, views) if store is not None]
    # Those who write keep the latest pieces at hand, and end here.
    stores = [(store, replace(store), _snapshot(store)) for store in wanted]
    done = 0
    for block in source.blocks(BLOCK_ROWS):
        stop = block.start + len(block.vectors)
        if stop > source.n_rows:
            break
        rows[block.start : stop], plain[block.start : stop] = _row_hashes(block)
        for store, writer, known in stores:
            if store is not features and block.views is None:
                continue
            missing = _missing(rows[block.start : stop], known)
            if len(missing):
                unit = _unit if store is features else _unit_views
                writer.append(rows[block.start + missing], unit(source, block, missing))
        done = stop
        if told is not None:
            told(done, source.n_rows)
    if done != source.n_rows:
        raise DatasetError(f"{source.files[0].table.path}: was changed while it was read; run again")
    for store in wanted:
        store.refresh()
    return rows, plain


def _snapshot(store: FeatureStore) -> FeatureStore | None:
    """What the store holds now: rows written from here on are not looked up again, which would cost a sort a block."""
    store.remove_stale_files()
    now = FeatureStore(store.folder, store.column, store.width)
    now.refresh()
    return now if now.n_segments else None


def _missing(rows: HashArray, known: FeatureStore | None) -> NDArray[np.int64]:
    """Rows of a block to be stored: those that are not known, each content once."""
    first = np.unique(as_strings(rows), return_index=True)[1]
    if known is not None:
        first = first[~known.contains(rows[first], verify=True)]
    found: NDArray[np.int64] = np.sort(first).astype(np.int64)
    return found


def _unit(source: EmbeddingSource, block: Block, rows: NDArray[np.int64]) -> Float16Array:
    return _halves(source, block.vectors[rows], block.start + rows)


def _unit_views(source: EmbeddingSource, block: Block, rows: NDArray[np.int64]) -> Float16Array:
    assert block.views is not None
    views = block.views[rows]
    count, n_views, dim = views.shape
    places = np.repeat(block.start + rows, n_views)
    return _halves(source, views.reshape(count * n_views, dim), places).reshape(count, n_views * dim)


def _halves(source: EmbeddingSource, vectors: NDArray[Any], places: NDArray[np.int64]) -> Float16Array:
    """Unit rows (m, d) in half precision. Raises DatasetError, with file and row, for one that has no direction."""
    rows, bad = half_rows(vectors)
    if bad:
        placed = [source.where(int(places[row])).rpartition(": row ") for row in sorted(bad)]
        file, _, first = placed[0]
        numbers = list(dict.fromkeys(int(row) for name, _, row in placed if name == file))  # several views of one, once
        more = more_rows(numbers)
        raise DatasetError(f"{file}: embedding: row {first} {bad[min(bad)]}{more}; repair it or leave the row out")
    return rows


def half_rows(vectors: NDArray[Any]) -> tuple[Float16Array, dict[int, str]]:
    """(unit rows (m, d) in half precision, by row what is wrong with those that have no direction: they are zeros).

    Rows of half precision that have length one already stay bit for bit: what was exported comes back.
    """
    bad = {int(row): "holds NaN or infinity" for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1))}
    bad |= {int(row): "is all zeros" for row in np.flatnonzero(~vectors.any(axis=1))}
    unit = np.zeros(vectors.shape, np.float16)
    good = np.setdiff1d(np.arange(len(vectors)), list(bad))
    unit[good] = unit_rows(vectors[good], good.tolist(), "")
    if vectors.dtype == np.float16:
        norm = np.linalg.norm(np.where(np.isfinite(vectors), vectors, 0).astype(np.float64), axis=1)
        done = np.abs(norm - 1) < UNIT_TOLERANCE
        done[list(bad)] = False
        unit[done] = vectors[done]
    return unit, bad


def _row_hashes(block: Block) -> tuple[HashArray, HashArray]:
    """(m, 16) hashes of the bytes of each row's embedding and views, and of its embedding alone."""
    vectors = np.ascontiguousarray(block.vectors)
    views = None if block.views is None else np.ascontiguousarray(block.views)
    if views is None:
        digests = b"".join([hashlib.blake2b(vector.data, digest_size=HASH_BYTES).digest() for vector in vectors])
        hashes = np.frombuffer(digests, np.uint8).reshape(-1, HASH_BYTES)
        return hashes, hashes
    whole, plain = bytearray(), bytearray()
    for number, vector in enumerate(vectors):
        digest = hashlib.blake2b(vector.data, digest_size=HASH_BYTES)
        plain += digest.digest()
        digest.update(views[number].data)
        whole += digest.digest()
    rows, alone = (np.frombuffer(bytes(part), np.uint8).reshape(-1, HASH_BYTES) for part in (whole, plain))
    return rows, alone


def _content_hashes(dataset: Dataset, source: EmbeddingSource, plain: HashArray, cache: FeatureCache) -> HashArray:
    """What the ledger knows the rows by: the image's hash where there is one, else that of the embedding alone (so that
    a table with other views finds its labels again)."""
    content = plain.copy()
    manifest = dataset.manifest
    held = pc.is_valid(manifest["image"]).to_numpy()
    shown = np.flatnonzero(held | _are_files(manifest["path"]))
    if not len(shown):
        return content
    place = np.arange(len(content))[_rows_of(dataset, source)]
    found = hash_manifest(manifest.take(pa.array(shown)), cache.folder, root=source.files[0].table.path)
    readable = np.ones(len(shown), bool)
    readable[list(found.unreadable)] = False
    content[place[shown[readable]]] = found.values[readable]
    return content


def _are_files(paths: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which of some paths (n,) are files of this machine."""
    there = np.zeros(len(paths), bool)
    if paths.null_count < len(paths):
        for row, path in enumerate(Names.of(paths)):
            there[row] = path is not None and not is_url(path) and os.path.isfile(path)
    return there


def _all_there(rows: HashArray, features: FeatureStore, views: FeatureStore | None, source: EmbeddingSource) -> bool:
    if not bool(features.contains(rows, verify=True).all()):
        return False
    return views is None or bool(views.contains(rows[source.have_views()], verify=True).all())


def _require_space(cache: FeatureCache, source: EmbeddingSource) -> None:
    need = source.n_rows * (1 + source.n_views) * 2 * source.dim
    if need > cache.free_bytes:
        raise OutputError(
            f"cache folder {cache.folder}: embeddings take {need / 2**20:.0f} MiB but {cache.free_bytes / 2**20:.0f} "
            "MiB are free; make room or set --cache to another folder"
        )


def _describe(cache: FeatureCache, source: EmbeddingSource) -> None:
    """Leave `encoder.json` so that people, and what counts the cache, can tell what the folder holds."""
    folder = Path(cache.folder) / f"embeddings-{source.dim}"
    about = {"weights_hash": "embeddings of users", "dim": source.dim, "precision": "fp16"}
    _replace(folder / "encoder.json", (json.dumps(about, indent=2) + "\n").encode())


def _index_file(cache: FeatureCache, source: EmbeddingSource) -> Path:
    text = json.dumps([_VERSION, source.dim, source.n_views, source.fingerprint()])
    name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    return Path(cache.folder) / "embedded" / f"{name}.arrow"


def _read_index(path: Path, n_rows: int) -> tuple[HashArray, HashArray] | None:
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all().combine_chunks()
    except (OSError, pa.ArrowInvalid):
        return None
    if not table.schema.equals(_INDEX) or table.num_rows != n_rows or not n_rows:
        return None
    columns = [np.frombuffer(column.chunk(0).buffers()[1], np.uint8)[: n_rows * HASH_BYTES] for column in table.columns]
    rows, content = (column.reshape(n_rows, HASH_BYTES) for column in columns)
    return rows, content


def _write_index(path: Path, rows: HashArray, content: HashArray) -> None:
    columns = [
        pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(HASH_BYTES), len(hashes), [None, pa.py_buffer(np.ascontiguousarray(hashes))]
        )
        for hashes in (rows, content)
    ]

    def write(handle: IO[bytes]) -> None:
        with pa.ipc.new_file(handle, _INDEX) as writer:
            writer.write_table(pa.table(columns, schema=_INDEX))

    _make_room(path.parent)
    write_with(path, write)


def _replace(path: Path, data: bytes) -> None:
    _make_room(path.parent)
    write_bytes(path, data)


def _make_room(folder: Path) -> None:
    with writing(folder, "set --cache to another folder"):
        folder.mkdir(parents=True, exist_ok=True)
