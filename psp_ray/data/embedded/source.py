"""Where the rows of a data set of embeddings lie, and which columns hold what."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from psp_ray.core.errors import DatasetError
from psp_ray.data.columns import ID_COLUMNS, IMAGE_COLUMNS, LABEL_COLUMNS, PATH_COLUMNS, SPLIT_COLUMNS
from psp_ray.data.embedded.tables import TableFile
from psp_ray.data.embedded.vectors import first_length, is_vector, is_vectors, vector_rows, view_rows, width_of

EMBEDDING_COLUMNS = ("embedding", "embeddings", "vector", "image_embedding", "image_embeddings")
VIEW_COLUMNS = ("views", "view_embeddings")
_CHUNK = 1 << 20  # names made at a time


@dataclass(frozen=True)
class Columns:
    """The names of a file's columns by what they hold; None where it has none."""

    embedding: str
    views: str | None = None
    label: str | None = None
    part: str | None = None
    path: str | None = None
    image: str | None = None
    sample_id: str | None = None


def find_embedding(schema: pa.Schema) -> str | None:
    """The column of embeddings; None where a table has none."""
    by_name = {name.lower(): name for name in schema.names}
    named = [by_name[name] for name in EMBEDDING_COLUMNS if name in by_name]
    return next((name for name in named if is_vector(schema.field(name).type)), None)


def find_columns(file: TableFile) -> Columns:
    """What a file's columns hold, by name and type.

    Raises:
        DatasetError: no column of embeddings.
    """
    schema = file.schema
    by_name = {name.lower(): name for name in schema.names}
    embedding = find_embedding(schema)
    if embedding is None:
        held = {name: schema.field(name).type for name in schema.names}
        named = next((by_name[name] for name in EMBEDDING_COLUMNS if name in by_name), None)
        if named is not None:
            raise DatasetError(f"{file.path}: column {named!r} holds {held[named]}, not lists of floats; convert it")
        raise DatasetError(
            f"{file.path}: no column 'embedding' with lists of floats (columns: {', '.join(held) or 'none'}); add one"
        )

    def find(names: Sequence[str]) -> str | None:
        return next((by_name[name] for name in names if name in by_name and by_name[name] != embedding), None)

    views = next((by_name[name] for name in VIEW_COLUMNS if name in by_name), None)
    if views is not None and not (is_vector(schema.field(views).type) or is_vectors(schema.field(views).type)):
        raise DatasetError(
            f"{file.path}: column {views!r} holds {schema.field(views).type}, not lists of embeddings; convert it"
        )
    image = find(IMAGE_COLUMNS)
    path = find(("filepath", *PATH_COLUMNS))
    if image is not None and pa.types.is_string(schema.field(image).type):
        path, image = path or image, None
    return Columns(embedding, views, find(LABEL_COLUMNS), find(SPLIT_COLUMNS), path, image, find(ID_COLUMNS))


@dataclass(frozen=True)
class SourceFile:
    """A file, the part that all of its rows belong to where its name or folder says so ("" where not), its rows."""

    table: TableFile
    columns: Columns
    part: str
    n_rows: int


@dataclass(frozen=True)
class Block:
    """Some rows of embeddings: `start` is the first one's place among all rows; `vectors` (m, d) and `views` (m, L, d)
    as the file has them. `faults`: by place in the block, why rows that are zeros here can't be read."""

    start: int
    vectors: NDArray[Any]
    views: NDArray[Any] | None
    faults: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class EmbeddingSource:
    """The rows of a data set of embeddings, in files, in order.

    `sample_ids` names every row; `n_views` is 0 where there are no views.
    """

    files: tuple[SourceFile, ...]
    dim: int
    n_views: int
    sample_ids: pa.Array

    @property
    def n_rows(self) -> int:
        return sum(file.n_rows for file in self.files)

    def have_views(self) -> NDArray[np.bool_]:
        """Whether each row (n,) has views: those of test rows from elsewhere may have none."""
        flags = [self.n_views > 0 and file.columns.views is not None for file in self.files]
        return np.repeat(np.array(flags, bool), [file.n_rows for file in self.files])

    def fingerprint(self) -> list[list[Any]]:
        """What changes when a file changes: path, size, time in ns and the columns read."""
        found: list[list[Any]] = []
        for file in self.files:
            stat = os.stat(file.table.path)
            place = os.path.abspath(file.table.path)
            found.append([place, stat.st_size, stat.st_mtime_ns, file.columns.embedding, file.columns.views])
        return found

    def blocks(self, rows: int, lenient: bool = False) -> Iterator[Block]:
        """All rows, at most `rows` at a time, in order.

        Raises:
            DatasetError: the file can't be read; or, unless `lenient`, a row without an embedding, or with one of
                another length.
        """
        start = 0
        for file in self.files:
            name, columns = file.table.path, file.columns
            wanted = [columns.embedding] + ([columns.views] if columns.views is not None else [])
            row = 1
            for batch in file.table.batches(wanted, rows):
                where = range(row, row + batch.num_rows)
                at = f"{name}: {columns.embedding}"
                faults: dict[int, str] | None = {} if lenient else None
                vectors = vector_rows(batch.column(columns.embedding), self.dim, where, at, faults)
                views = None
                if self.n_views and columns.views is not None:
                    at = f"{name}: {columns.views}"
                    views = view_rows(batch.column(columns.views), self.n_views, self.dim, where, at, faults)
                yield Block(start, vectors, views, faults or {})
                start, row = start + batch.num_rows, row + batch.num_rows

    def where(self, row: int) -> str:
        """File and row (counted from 1) of a place among all rows, for messages."""
        for file in self.files:
            if row < file.n_rows:
                return f"{file.table.path}: row {row + 1}"
            row -= file.n_rows
        raise IndexError(row)


def shape_of(file: TableFile, columns: Columns) -> tuple[int, int]:
    """(width of an embedding, views per row) of a file, from its types or its first row.

    Raises:
        DatasetError: no row, or views whose length doesn't fit.
    """
    kind = file.schema.field(columns.embedding).type
    view_kind = None if columns.views is None else file.schema.field(columns.views).type
    width = width_of(kind)
    first = None
    if width is None or (view_kind is not None and width_of(view_kind) is None):
        wanted = [columns.embedding] + ([columns.views] if columns.views is not None else [])
        first = next((batch for batch in file.batches(wanted, 1) if batch.num_rows), None)
        if first is None:
            raise DatasetError(f"{file.path}: holds no row; add rows")
    if width is None:
        assert first is not None
        width = first_length(first.column(columns.embedding)) or 0
    if width < 1:
        raise DatasetError(f"{file.path}: {columns.embedding}: row 1 is empty; fill it in or leave the row out")
    if view_kind is None or columns.views is None:
        return width, 0
    length = width_of(view_kind)
    if length is None:
        assert first is not None
        length = first_length(first.column(columns.views)) or 0
    if not is_vectors(view_kind):
        if length % width:
            raise DatasetError(
                f"{file.path}: {columns.views}: {length} numbers are no whole number of views of {width}; "
                "give all views of a row one behind the other"
            )
        length //= width
    return width, length


_SPLIT_NAME = re.compile(r"^([A-Za-z_]+?)(?:-\d{5}-of-\d{5}.*|-\d+|_\d+)?$")


def part_of_name(path: Path, parts: Sequence[str]) -> str:
    """The part that a file's name, or its folder's, says: `train-00000-of-00002`, `test`, `test/data-...`; else ""."""
    match = _SPLIT_NAME.match(path.stem)
    for name in ((match.group(1).lower() if match else ""), path.parent.name.lower()):
        if name and name in parts:
            return name
    return ""


def numbers(count: int, prefix: str = "row/") -> pa.Array:
    """Names for rows that have none: `row/0007`."""
    width = len(str(max(count - 1, 0)))
    chunks = []
    for start in range(0, count, _CHUNK):
        digits = pa.array(np.arange(start, min(start + _CHUNK, count))).cast(pa.string())
        chunks.append(pc.binary_join_element_wise(prefix, pc.utf8_lpad(digits, width, "0"), ""))
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())


def as_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One array of a column."""
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return column
