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
import pyarrow.parquet as pq

from psp_ray.core.errors import OutputError
from psp_ray.core.files import make_folder, write_parquet
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
    paths = manifest["path"].to_pylist()
    name = hashlib.blake2b((root or "").encode(), digest_size=12).hexdigest()
    index_file = Path(cache_folder) / "hashes" / f"{name}.parquet"
    known = _read_index(index_file) if any(paths) else {}
    images = manifest["image"]

    def one(row: int) -> _Hashed:
        path = paths[row]
        try:
            if path is None:
                return row, content_hash(images[row].as_py()), None, ""
            stamp = _stamp(path)
            remembered = known.get(path)
            if stamp is not None and remembered is not None and remembered[:2] == stamp:
                return row, remembered[2], stamp, ""
            return row, content_hash(read_file(path)), stamp, ""
        except FileNotFoundError:
            return row, None, None, "file not found"
        except (OSError, ImageError) as error:
            return row, None, None, str(error)

    values = np.zeros((len(paths), HASH_BYTES), np.uint8)
    unreadable: dict[int, str] = {}
    stamps: dict[int, tuple[int, int]] = {}
    with ThreadPoolExecutor(threads) as executor:
        for done, (row, digest, stamp, reason) in enumerate(_windowed(executor, one, len(paths)), start=1):
            if digest is None:
                unreadable[row] = reason
            else:
                values[row] = np.frombuffer(digest, np.uint8)
                if stamp is not None:
                    stamps[row] = stamp
            if progress is not None and (done % 100 == 0 or done == len(paths)):
                progress(done, len(paths))
    settled = time.time_ns() - RACY_NS
    found = {paths[row]: (*stamp, values[row].tobytes()) for row, stamp in stamps.items() if stamp[1] < settled}
    if any(known.get(path) != entry for path, entry in found.items()):
        _write_index(index_file, known | found)
    return Hashes(values, unreadable)


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


def _read_index(file: Path) -> dict[str, tuple[int, int, bytes]]:
    """What is remembered; nothing where the index is missing or damaged (files are then simply read again)."""
    try:
        table = pq.read_table(file)
    except (OSError, ValueError, pa.ArrowException):
        return {}
    if not table.schema.equals(_SCHEMA):
        return {}
    columns = [table[name].to_pylist() for name in _SCHEMA.names]
    return {path: (size, mtime, digest) for path, size, mtime, digest in zip(*columns, strict=True)}


def _write_index(file: Path, entries: dict[str, tuple[int, int, bytes]]) -> None:
    columns = zip(*((path, *entry) for path, entry in entries.items()), strict=True)
    table = pa.table(
        [pa.array(list(column), kind.type) for column, kind in zip(columns, _SCHEMA, strict=True)], _SCHEMA
    )
    with suppress(OutputError):  # the index only saves time; a read-only cache works without it
        make_folder(file.parent)
        write_parquet(file, table)
