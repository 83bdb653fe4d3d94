"""One segment of a feature store: an immutable Arrow file of content hashes and rows of float16, with a checksum."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from psp_ray.core.errors import OutputError
from psp_ray.core.files import write_with
from psp_ray.core.records import Float16Array
from psp_ray.core.writing import writing
from psp_ray.data.images import HASH_BYTES

HashArray = NDArray[np.uint8]
"""Content hashes, (n, 16) uint8."""
_CHECKSUM = b"psp-ray-crc32"


def schema_of(column: str, width: int) -> pa.Schema:
    """`content_hash` fixed binary[16], `column` fixed_size_list<halffloat>[width]."""
    return pa.schema([("content_hash", pa.binary(HASH_BYTES)), (column, pa.list_(pa.float16(), width))])


def segment_name(hashes: HashArray) -> str:
    """A segment's file name but for the ending: the same images make the same name."""
    return hashlib.blake2b(np.ascontiguousarray(hashes, np.uint8).tobytes(), digest_size=12).hexdigest()


def write_segment(folder: Path, schema: pa.Schema, hashes: HashArray, vectors: Float16Array) -> None:
    """Write vectors (k, width) for hashes (k, 16) aside, flush, and rename.

    Raises:
        OutputError: the disk is full or the folder can't be written. ValueError: the shapes don't fit.
    """
    hashes = np.ascontiguousarray(hashes, np.uint8).reshape(-1, HASH_BYTES)
    vectors = np.ascontiguousarray(vectors, np.float16)
    width = schema.field(1).type.list_size
    if vectors.shape != (len(hashes), width):
        raise ValueError(f"vectors {vectors.shape} for {len(hashes)} hashes and width {width}")
    schema = schema.with_metadata({_CHECKSUM: str(checksum(hashes, vectors)).encode()})
    keys = pa.FixedSizeBinaryArray.from_buffers(pa.binary(HASH_BYTES), len(hashes), [None, pa.py_buffer(hashes)])
    table = pa.Table.from_arrays([keys, half_lists(vectors)], schema=schema)
    name = segment_name(hashes)

    def write(handle: IO[bytes]) -> None:
        with pa.ipc.new_file(handle, schema) as writer:
            writer.write_table(table)

    with writing(f"cache folder {folder}", "make room or set --cache to another folder"):
        folder.mkdir(parents=True, exist_ok=True)
    write_with(folder / f"{name}.arrow", write)


def open_segment(path: Path, schema: pa.Schema) -> tuple[NDArray[Any], Float16Array] | None:
    """Hashes (k,) as strings of 16 bytes and rows (k, width), mapped into memory; None for a damaged segment.

    Raises:
        OutputError: it is there but the system can't open it now (rights, limits, network).
    """
    try:
        # Closing the file keeps the mapping but frees the descriptor: a large pool has thousands of segments.
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        if not table.schema.equals(schema) or table.num_rows == 0:
            return None
        hashes = table.column(0).combine_chunks() if table.column(0).num_chunks > 1 else table.column(0).chunk(0)
        raw = np.frombuffer(hashes.buffers()[1], np.uint8, count=len(hashes) * HASH_BYTES, offset=hashes.offset)
        return as_strings(raw), half_matrix(table.column(1))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno is None:  # Arrow's own word for a file that is cut short
            return None
        raise OutputError(
            f"cache segment {path} can't be opened ({os.strerror(error.errno)}); see to that, or set --cache to "
            "another folder"
        ) from None
    except (pa.ArrowInvalid, ValueError):
        return None


def set_aside(path: Path) -> None:
    """Rename a damaged segment to `*.corrupt`, so that its images count as absent."""
    try:
        os.replace(path, path.with_name(path.name + ".corrupt"))
    except OSError:
        return  # another process has done so, or the folder is read-only: either way it is not used


def checksum(hashes: NDArray[Any], vectors: Float16Array) -> int:
    """CRC-32 of hashes and rows."""
    return zlib.crc32(vectors.reshape(-1).view(np.uint8).data, zlib.crc32(hashes.tobytes()))


def stored_checksum(path: Path) -> int | None:
    """The checksum that a segment was written with; None where it can't be read."""
    try:
        with pa.memory_map(str(path)) as source:
            return int((pa.ipc.open_file(source).schema.metadata or {})[_CHECKSUM])
    except (pa.ArrowInvalid, OSError, ValueError, KeyError):
        return None


def half_lists(vectors: Float16Array) -> pa.FixedSizeListArray:
    """(n, width) float16 as an Arrow column of fixed_size_list<halffloat>[width], without copying."""
    vectors = np.ascontiguousarray(vectors, np.float16)
    flat = pa.Array.from_buffers(pa.float16(), vectors.size, [None, pa.py_buffer(vectors)])
    kind = pa.list_(pa.float16(), vectors.shape[1])
    return pa.FixedSizeListArray.from_buffers(kind, len(vectors), [None], children=[flat])


def half_matrix(column: pa.Array | pa.ChunkedArray) -> Float16Array:
    """The (n, width) float16 of such a column, read-only and without copying where it is one chunk."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    flat: Float16Array = column.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(len(column), column.type.list_size)


def as_strings(hashes: NDArray[Any]) -> NDArray[Any]:
    """(n, 16) uint8 as n strings of 16 bytes, which numpy can sort and search."""
    return np.ascontiguousarray(hashes, np.uint8).reshape(-1).view(f"S{HASH_BYTES}")
