"""One file of rows, read column by column and block by block: Parquet, Arrow (file or stream), npz, JSON lines."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from psp_ray.core.errors import DatasetError
from psp_ray.core.paths import is_file
from psp_ray.core.tables import TableError, read_json_lines
from psp_ray.core.words import reason_of
from psp_ray.data.columns import distinct, whole

SUFFIXES = (".parquet", ".pq", ".arrow", ".feather", ".ipc", ".npz", ".jsonl", ".ndjson")
_JSON_ROWS = 1000
"""Rows of JSON that tell the types of the columns."""


class TableFile(Protocol):
    """A file of rows. `path` names it; `schema` is that of its columns."""

    @property
    def path(self) -> str: ...
    @property
    def schema(self) -> pa.Schema: ...

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """The columns (all if none is named), at most `rows` rows at a time. Raises DatasetError where it can't be
        read."""
        ...


def open_table(path: str | Path) -> TableFile:
    """The table in a file, by its ending (`SUFFIXES`).

    Raises:
        DatasetError: another ending, missing, or not what the ending says.
    """
    place = Path(path)
    if not is_file(place):
        raise DatasetError(f"{path}: no such file; check the path")
    suffix = place.suffix.lower()
    with _readable(str(path)):
        if suffix in (".parquet", ".pq"):
            return ParquetTable(str(path), distinct(pq.read_schema(path)))
        if suffix in (".arrow", ".feather", ".ipc"):
            return ArrowTable(str(path), distinct(_arrow_schema(place)))
        if suffix == ".npz":
            return NpzTable(str(path), distinct(_npz_schema(place)))
        if suffix in (".jsonl", ".ndjson"):
            return JsonTable(str(path), distinct(_json_schema(str(path))))
    raise DatasetError(f"{path}: tables are read from {', '.join(SUFFIXES)}; write it as one of these")


@dataclass(frozen=True)
class ParquetTable:
    """A Parquet file; row groups are read one at a time."""

    path: str
    schema: pa.Schema

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        with _readable(self.path), pq.ParquetFile(self.path, memory_map=True) as file:
            yield from file.iter_batches(rows, columns=list(columns) or None)


@dataclass(frozen=True)
class ArrowTable:
    """An Arrow IPC file or stream (as `datasets` saves to disk), mapped into memory."""

    path: str
    schema: pa.Schema

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        with _readable(self.path), pa.memory_map(self.path) as source:
            for batch in _record_batches(source):
                part = batch.select(list(columns)) if columns else batch
                part.validate(full=True)  # offsets that point elsewhere would crash the process
                for start in range(0, part.num_rows, rows):
                    yield part.slice(start, rows)


@dataclass(frozen=True)
class NpzTable:
    """A numpy archive: an array a column, the first axis is the rows. Arrays of other lengths are left out."""

    path: str
    schema: pa.Schema

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        names = list(columns) or self.schema.names
        with _readable(self.path), zipfile.ZipFile(self.path) as archive:
            streams = [_npy_blocks(archive, f"{name}.npy", rows) for name in names]
            for blocks in zip(*streams, strict=True):
                yield pa.record_batch([_as_column(block) for block in blocks], names=names)


@dataclass(frozen=True)
class JsonTable:
    """JSON lines: an object a row."""

    path: str
    schema: pa.Schema

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        fields = [self.schema.field(name) for name in (columns or self.schema.names)]
        with _readable(self.path):
            for records in _json_records(self.path, rows):
                arrays = [pa.array([record.get(field.name) for record in records], field.type) for field in fields]
                yield pa.record_batch(arrays, schema=pa.schema(fields))


@dataclass(frozen=True)
class MemoryTable:
    """A table at hand, of a file that has to be read whole."""

    path: str
    table: pa.Table

    @property
    def schema(self) -> pa.Schema:
        return self.table.schema

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        part = self.table.select(list(columns)) if columns else self.table
        yield from part.to_batches(max_chunksize=rows)


def read_columns(file: TableFile, columns: Sequence[str], rows: int = 1 << 16) -> pa.Table:
    """Some columns of a whole file, in memory."""
    schema = pa.schema([file.schema.field(name) for name in columns])
    with _readable(file.path):
        return whole(pa.Table.from_batches(list(file.batches(columns, rows)), schema=schema))


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:  # pyarrow, numpy and zipfile raise all kinds where a file is damaged
        raise DatasetError(f"{path}: can't be read ({reason_of(error)}); write the file again") from None


def _record_batches(source: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    try:
        reader = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        yield from pa.ipc.open_stream(source)
        return
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)


def _arrow_schema(path: Path) -> pa.Schema:
    with pa.memory_map(str(path)) as source:
        try:
            return pa.ipc.open_file(source).schema
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_stream(source).schema


def _json_records(path: str, rows: int) -> Iterator[list[dict[str, Any]]]:
    """The objects of a file of JSON lines, at most `rows` at a time. (pyarrow's own reader crashes on some damage.)

    Raises:
        ValueError: a line is no object.
    """
    with open(path, "rb") as file:
        lines = read_json_lines(file)
        try:
            while records := [record for _, record in islice(lines, rows)]:
                yield records
        except TableError as error:
            raise ValueError(f"line {error.line}: {error}") from None


def _json_schema(path: str) -> pa.Schema:
    """Columns and their types by the first rows; a column that is empty there holds texts."""
    first = next(_json_records(path, _JSON_ROWS), [])
    names = dict.fromkeys(name for record in first for name in record)
    kinds = {name: pa.array([record.get(name) for record in first]).type for name in names}
    return pa.schema([(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in kinds.items()])


def _npz_schema(path: Path) -> pa.Schema:
    with zipfile.ZipFile(path) as archive:
        heads = {name.removesuffix(".npy"): _npy_header(archive, name) for name in archive.namelist()}
    arrays = {name: head for name, head in heads.items() if head[0]}
    matrices = [head[0][0] for head in arrays.values() if len(head[0]) >= 2]
    rows = max(matrices or [head[0][0] for head in arrays.values()], default=0)
    return pa.schema(
        [
            (name, _as_column(np.zeros((0, *shape[1:]), dtype)).type)
            for name, (shape, dtype) in arrays.items()
            if shape[0] == rows
        ]
    )


def _npy_header(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(member) as stream:
        return _read_header(stream, member)


def _read_header(stream: Any, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"array {member.removesuffix('.npy')!r} holds Python objects; save it as numbers or strings")
    if fortran and len(shape) > 1:
        raise ValueError(f"array {member.removesuffix('.npy')!r} is in Fortran order; save np.ascontiguousarray of it")
    return shape, dtype


def _npy_blocks(archive: zipfile.ZipFile, member: str, rows: int) -> Iterator[NDArray[Any]]:
    with archive.open(member) as stream:
        shape, dtype = _read_header(stream, member)
        width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            data = stream.read(count * width)
            if len(data) < count * width:
                raise ValueError(f"array {member.removesuffix('.npy')!r} is cut short")
            yield np.frombuffer(data, dtype).reshape(count, *shape[1:])


def _as_column(values: NDArray[Any]) -> pa.Array:
    """An array as an Arrow column: further axes become fixed-size lists."""
    if values.dtype.kind in "SU":
        return pa.array(values.tolist(), pa.binary() if values.dtype.kind == "S" else pa.string())
    column = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column
