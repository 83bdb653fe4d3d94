"""Content hashes of a manifest's images; those of files are remembered by (path, size, mtime_ns). No torch here."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from psp_ray.core.errors import OutputError
from psp_ray.core.files import make_folder, write_parquet
from psp_ray.core.names import Names
from psp_ray.core.records import Int64Array
from psp_ray.data.images import HASH_BYTES, ImageError, content_hash, is_url, read_file
from psp_ray.data.remote import version
from psp_ray.features.segments import HashArray

RACY_NS = 2_000_000_000
"""A file changed this recently may change again without its time stamp showing it: its hash is not remembered."""
_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("content_hash", pa.binary(HASH_BYTES)),
    ]
)


@dataclass(frozen=True)
class Hashes:
    """Content hashes (n, 16) of a manifest's rows; `unreadable` maps a row to the reason why it has none (zeros)."""

    values: HashArray
    unreadable: dict[int, str]


_Hashed = tuple[int, bytes | None, tuple[int, int] | None, str]
"""Row, hash, (size, mtime_ns) of a file, reason where there is no hash."""


def hash_manifest(
    manifest: pa.Table,
    cache_folder: str | os.PathLike[str],
    *,
    root: str | None = None,
    threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Hashes:
    """Hash all images of a manifest; files whose size and time are those of the last time are not read again.

    `root`, the data set's folder, names the index. Reads one file per thread at a time. `progress` is told (done,
    total) now and then.
    """
    paths, images = Names.of(manifest["path"]), manifest["image"]
    name = hashlib.blake2b((root or "").encode(), digest_size=12).hexdigest()
    index_file = Path(cache_folder) / "hashes" / f"{name}.parquet"
    known = _Known.of(_read_index(index_file) if paths.column.null_count < len(paths) else _SCHEMA.empty_table(), paths)

    def one(row: int) -> _Hashed:
        path = paths[row]
        try:
            if path is None:
                return row, content_hash(images[row].as_py()), None, ""
            stamp = _stamp(path)
            remembered = None if stamp is None else known.of_row(row, stamp)
            return row, remembered or content_hash(read_file(path)), stamp, ""
        except FileNotFoundError:
            return row, None, None, "file not found"
        except (OSError, ImageError) as error:
            return row, None, None, str(error)

    values = np.zeros((len(paths), HASH_BYTES), np.uint8)
    unreadable: dict[int, str] = {}
    stamps = np.full((len(paths), 2), -1, np.int64)
    with ThreadPoolExecutor(threads) as executor:
        for done, (row, digest, stamp, reason) in enumerate(_windowed(executor, one, len(paths)), start=1):
            if digest is None:
                unreadable[row] = reason
            else:
                values[row] = np.frombuffer(digest, np.uint8)
                stamps[row] = (-1, -1) if stamp is None else stamp
            if progress is not None and (done % 100 == 0 or done == len(paths)):
                progress(done, len(paths))
    settled = (stamps[:, 0] >= 0) & (stamps[:, 1] < time.time_ns() - RACY_NS)
    if known.learns(settled, stamps, values):
        _write_index(index_file, known.with_rows(paths, np.flatnonzero(settled), stamps, values))
    return Hashes(values, unreadable)


@dataclass(frozen=True)
class _Known:
    """An index of an earlier time: its `table`, `stamps` (m, 2) and `digests` (m, 16); `place` (n,) says where in it
    the paths of now are, -1 where they are not."""

    table: pa.Table
    stamps: Int64Array
    digests: HashArray
    place: Int64Array

    @classmethod
    def of(cls, table: pa.Table, paths: Names) -> _Known:
        stamps = np.stack([table[name].to_numpy() for name in ("size", "mtime_ns")], axis=1)
        digests = np.frombuffer(b"".join(table["content_hash"].to_pylist()), np.uint8).reshape(-1, HASH_BYTES)
        place = pc.fill_null(pc.index_in(paths.column, value_set=table["path"], skip_nulls=True), -1)
        return cls(table, stamps, digests, place.to_numpy().astype(np.int64))

    def of_row(self, row: int, stamp: tuple[int, int]) -> bytes | None:
        """The hash of the file in a row, if it was that of the same stamp."""
        at = self.place[row]
        return self.digests[at].tobytes() if at >= 0 and tuple(self.stamps[at].tolist()) == stamp else None

    def learns(self, settled: NDArray[np.bool_], stamps: Int64Array, values: HashArray) -> bool:
        """Whether any of the rows that are `settled` (n,) is new, or another one now."""
        rows = np.flatnonzero(settled)
        at = self.place[rows]
        if (at < 0).any():
            return True
        same = (self.stamps[at] == stamps[rows]).all(axis=1) & (self.digests[at] == values[rows]).all(axis=1)
        return not bool(same.all())

    def with_rows(self, paths: Names, rows: Int64Array, stamps: Int64Array, values: HashArray) -> pa.Table:
        """The index with the files of some rows (k,) as they are now; of a path that is there twice, the last."""
        codes = paths.take(rows).dictionary_encode().indices.to_numpy()
        last = np.zeros(codes.max(initial=-1) + 1, np.int64)
        last[codes] = rows
        gone = np.zeros(len(self.table), bool)
        gone[self.place[last][self.place[last] >= 0]] = True
        digests = [row.tobytes() for row in values[last]]
        columns = [paths.take(last), stamps[last, 0], stamps[last, 1], pa.array(digests, pa.binary(HASH_BYTES))]
        return pa.concat_tables([self.table.filter(pa.array(~gone)), pa.table(columns, schema=_SCHEMA)])


def _stamp(path: str) -> tuple[int, int] | None:
    """(size, time in ns) of a file; of a URL its size and a number made of its version, None where it has neither."""
    if not is_url(path):
        stat = os.stat(path)
        return stat.st_size, stat.st_mtime_ns
    found = version(path)
    if found is None:
        return None
    digest = hashlib.blake2b(found[1].encode(), digest_size=7).digest()
    return found[0], int.from_bytes(digest, "big") % RACY_NS  # long ago, so that it is remembered


def _windowed(executor: ThreadPoolExecutor, call: Callable[[int], _Hashed], count: int) -> Iterator[_Hashed]:
    """`executor.map` in order with a bounded number of calls under way: a million futures are memory too."""
    todo = iter(range(count))
    window = deque(executor.submit(call, row) for row in islice(todo, 256))
    while window:
        future = window.popleft()
        yield future.result()
        window.extend(executor.submit(call, row) for row in islice(todo, 1))


def _read_index(file: Path) -> pa.Table:
    """What is remembered; nothing where the index is missing or damaged (files are then simply read again)."""
    try:
        table = pq.read_table(file)
    except (OSError, ValueError, pa.ArrowException):
        return _SCHEMA.empty_table()
    whole = table.schema.equals(_SCHEMA) and not any(column.null_count for column in table.columns)
    return table if whole else _SCHEMA.empty_table()


def _write_index(file: Path, table: pa.Table) -> None:
    with suppress(OutputError):  # the index only saves time; a read-only cache works without it
        make_folder(file.parent)
        write_parquet(file, table)
