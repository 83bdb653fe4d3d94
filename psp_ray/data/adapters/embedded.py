"""Embeddings in place of images: a table of them, a folder of tables, or what other tools export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from psp_ray.core.answers import UnknownLabel
from psp_ray.core.errors import DatasetError
from psp_ray.core.names import CHUNK, Names
from psp_ray.core.paths import exists, local_text
from psp_ray.core.records import Int32Array
from psp_ray.core.words import counted
from psp_ray.data.columns import PART_OF, class_label_names, locate
from psp_ray.data.dataset import GROUND_TRUTH_SCHEMA, MANIFEST_SCHEMA, TEST_PREFIX, Dataset, check_classes
from psp_ray.data.embedded.layouts import find_tables, has_embeddings
from psp_ray.data.embedded.source import (
    Columns,
    EmbeddingSource,
    SourceFile,
    as_array,
    find_columns,
    numbers,
    shape_of,
)
from psp_ray.data.embedded.tables import TableFile, read_columns
from psp_ray.data.labels import LabelReader, class_of, label_text, names_of
from psp_ray.data.manifest import descriptions
from psp_ray.data.parts import PART_NAMES, part_codes
from psp_ray.data.registry import Request


def load_embedded(request: Request) -> Dataset:
    """The data set of a table with a column `embedding`, or of a folder of such tables.

    Reads every column but the embeddings and their views. Other columns may be there: `sample_id` (default: the path,
    else the row's number), `label`, `part` (pool, train, val, test), `path` or `image` (to be shown). Without parts, a
    data set that labels every row is cut like a folder of class folders; one that doesn't is all pool.

    Raises:
        DatasetError: in one line with file and row: no column of embeddings, widths that differ between files, a
            sample_id twice, an unknown label or part, no class names.
    """
    if request.split is not None:
        raise DatasetError(f"dataset {request.name!r}: embeddings have parts in a column 'part'; drop --split")
    name = Path(os.path.abspath(local_text(request.name))).stem or "embeddings"
    source, rows = scan_embeddings(request.name)
    classes, labels, notes = _labels(source, rows, request)
    check_classes(name, classes)
    parts = _parts(source, rows, labels, has_test=request.has_test)
    in_pool = pc.equal(parts, "pool").to_numpy(zero_copy_only=False)
    unlabeled = np.flatnonzero(~in_pool & (labels < 0))
    if len(unlabeled):
        row = int(unlabeled[0])
        raise DatasetError(
            f"{source.where(row)}: a {parts[row]} row without a label; label it or make it part of the pool"
        )
    if not in_pool.any():
        raise DatasetError(f"{name}: no row to choose from (all are val or test); mark some as pool or train")
    order = _order(source)
    ids = _taken(source.sample_ids, order)
    _require_distinct(source, ids, order)
    columns = [ids, *(_taken(column, order) for column in (rows["path"], rows["image"], parts))]
    manifest = pa.table(columns, schema=MANIFEST_SCHEMA)
    truth = None
    if (labels >= 0).any():
        known = labels if order is None else labels[order.to_numpy()]
        truth = pa.table([ids, pa.array(known, pa.int32())], schema=GROUND_TRUTH_SCHEMA)
        if (known < 0).any():
            truth = truth.filter(pa.array(known >= 0))
    known_phrases = dict(descriptions(request.classes))
    return Dataset(
        name, list(classes), manifest, truth, descriptions=known_phrases, embeddings=source, notes=tuple(notes)
    )


def with_test_rows(dataset: Dataset, given: str) -> Dataset:
    """`dataset`, which brings embeddings, with the rows of `--test` as its test part: another table, with labels.

    Where the table itself has parts, its test rows are taken, else all. Their names get `test/` in front. Views are
    not needed there.

    Raises:
        DatasetError: no table of embeddings, another width, a row without a label or of an unknown class.
    """
    if not exists(given) or not has_embeddings(given):
        raise DatasetError(f"--test {given}: with embeddings, give a table of embeddings with labels; check the path")
    pool = dataset.embeddings
    assert pool is not None
    source, rows = scan_embeddings(given)
    if source.dim != pool.dim:
        raise DatasetError(
            f"--test {given}: embeddings have {source.dim} numbers but the data set's {pool.dim}; both must be of one "
            "model"
        )
    parts = [PART_OF.get(text.strip().lower()) for text in rows["part"].to_pylist()]
    chosen = [row for row, part in enumerate(parts) if part == "test"] or list(range(len(parts)))
    read = LabelReader(dataset.classes, dataset.former)
    texts = rows["label"].to_pylist()
    labels = []
    for row in chosen:
        try:
            label = class_of(texts[row], read)
        except UnknownLabel as error:
            raise DatasetError(f"--test {source.where(row)}: {error}") from None
        if label is None:
            raise DatasetError(f"--test {source.where(row)}: no label; every test row needs one")
        labels.append(label)
    names = pa.array([TEST_PREFIX + name for name in source.sample_ids.to_pylist()], pa.string())
    order = pc.sort_indices(names)
    _require_distinct(source, names.take(order), order)
    taken = pa.array(chosen, pa.int64())
    ids = names.take(taken)
    kept = dataset.manifest
    if bool(pc.any(pc.is_in(kept["sample_id"], value_set=ids)).as_py()):
        raise DatasetError(f"--test {given}: a row of the pool is called {ids[0].as_py()!r} too; rename it")
    part = pa.repeat(pa.scalar("test"), len(ids))
    table = pa.table([ids, rows["path"].take(taken), rows["image"].take(taken), part], schema=MANIFEST_SCHEMA)
    truth = pa.table([ids, pa.array(labels, pa.int32())], schema=GROUND_TRUTH_SCHEMA)
    if dataset.ground_truth is not None:
        truth = pa.concat_tables([dataset.ground_truth, truth]).sort_by("sample_id").combine_chunks()
    files = [replace(file, columns=replace(file.columns, views=None)) for file in source.files]
    both = EmbeddingSource((*pool.files, *files), pool.dim, pool.n_views, pa.concat_arrays([pool.sample_ids, names]))
    manifest = pa.concat_tables([kept, table]).sort_by("sample_id").combine_chunks()
    return replace(dataset, manifest=manifest, ground_truth=truth, embeddings=both)


def scan_embeddings(name: str) -> tuple[EmbeddingSource, dict[str, pa.Array]]:
    """The source, and its columns `label` (texts, null where there is none), `part`, `path`, `image` in row order."""
    files: list[SourceFile] = []
    found: dict[str, list[pa.Array]] = {key: [] for key in ("sample_id", "label", "part", "path", "image")}
    shape: tuple[int, int] | None = None
    for part, table in find_tables(name):
        columns = find_columns(table)
        mine = shape_of(table, columns)
        shape = shape or mine
        if mine != shape:
            raise DatasetError(
                f"{table.path}: embeddings have {_shape_text(mine)} but {_shape_text(shape)} in {files[0].table.path}; "
                "all files must be of one model"
            )
        cells = _cells(table, columns)
        n_rows = len(cells["path"])
        files.append(SourceFile(table, columns, part, n_rows))
        if columns.part is None:
            cells["part"] = pa.repeat(pa.scalar(part), n_rows)
        for key in found:
            found[key].append(cells[key])
    rows = {key: as_array(pa.chunked_array(parts)) for key, parts in found.items()}
    assert shape is not None
    if not len(rows["path"]):
        raise DatasetError(f"{files[0].table.path}: holds no row; add rows")
    source = EmbeddingSource(tuple(files), *shape, sample_ids=_names(rows))
    return source, rows


def _shape_text(shape: tuple[int, int]) -> str:
    return f"{shape[0]} numbers" + (f" and {counted(shape[1], 'view')}" if shape[1] else " and no views")


def _cells(table: TableFile, columns: Columns) -> dict[str, pa.Array]:
    """The columns besides embeddings of one file, in one form."""
    named = (columns.sample_id, columns.label, columns.part, columns.path, columns.image)
    wanted = list(dict.fromkeys(name for name in named if name is not None))
    read = read_columns(table, wanted) if wanted else pa.table({})
    count = read.num_rows if wanted else sum(batch.num_rows for batch in table.batches([columns.embedding], 1 << 16))

    def column(name: str | None) -> pa.Array:
        return pa.nulls(count, pa.string()) if name is None else as_array(read[name])

    base = os.path.dirname(os.path.abspath(table.path))
    image, path = _images(column(columns.image)), _texts(column(columns.path), table.path)
    if columns.image is not None and columns.path is None:
        path = _paths_of_structs(column(columns.image))
    ids = _texts(column(columns.sample_id), f"{table.path}: {columns.sample_id}")
    if columns.sample_id is None and columns.path is not None:
        ids = path
    names = class_label_names(table.schema, columns.label)
    return {
        "sample_id": ids,
        "label": _label_texts(column(columns.label), names, table, columns.label),
        "part": pc.fill_null(_texts(column(columns.part), f"{table.path}: {columns.part}"), ""),
        # The bytes are what is shown where there are some; a path beside them names the place that they came from.
        "path": _places(path, image, base),
        "image": image,
    }


def _places(path: pa.Array, image: pa.Array, base: str) -> pa.Array:
    """Where images lie: their paths seen from the folder `base`, null where there is none, or bytes."""
    if path.null_count == len(path):
        return path
    bare = pc.if_else(image.is_valid(), pa.scalar(None, pa.string()), path)
    chunks = [
        pa.array(
            [None if not place else locate(place, base) for place in bare.slice(at, CHUNK).to_pylist()], pa.string()
        )
        for at in range(0, len(bare), CHUNK)
    ]
    return pa.concat_arrays(chunks)


def _images(column: pa.Array) -> pa.Array:
    """Image bytes of a column of bytes or of structs of `bytes` and `path`; null where there are none."""
    if pa.types.is_struct(column.type):
        names = [field.name for field in column.type]
        column = pc.struct_field(column, "bytes") if "bytes" in names else pa.nulls(len(column), pa.binary())
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        return pa.nulls(len(column), pa.binary())
    return column.cast(pa.binary())


def _paths_of_structs(column: pa.Array) -> pa.Array:
    if pa.types.is_struct(column.type) and "path" in [field.name for field in column.type]:
        return pc.struct_field(column, "path").cast(pa.string())
    return pa.nulls(len(column), pa.string())


def _texts(column: pa.Array, what: str) -> pa.Array:
    """A column as texts. Raises DatasetError where it can't be."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid:
            raise DatasetError(f"{what}: holds fractions; give whole numbers or texts") from None
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        raise DatasetError(f"{what}: holds {column.type}, not texts or numbers; convert it") from None


def _label_texts(column: pa.Array, names: list[str] | None, table: TableFile, name: str | None) -> pa.Array:
    """Labels as texts, null where there is none (see `psp_ray.data.labels`). Numbers of a `ClassLabel` are names."""
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.string())
    found, codes = _values(column)
    texts: list[str | None] = []
    for place, value in enumerate(found):
        try:
            text = label_text(value)
        except UnknownLabel as error:
            row = int(np.flatnonzero(codes == place)[0]) + 1
            raise DatasetError(f"{table.path}: {name}: row {row}: {error}") from None
        if names is not None and isinstance(value, int) and 0 <= value < len(names):
            text = names[value]
        texts.append(text or None)
    return pa.array([*texts, None], pa.string()).take(pa.array(codes))


def _values(column: pa.Array) -> tuple[list[Any], NDArray[np.int64]]:
    """(the different cells of a column, which of them each row has (n,): the last one's place and 1 for none)."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
        encoded = column.dictionary_encode()
        count = len(encoded.dictionary)
        return encoded.dictionary.to_pylist(), pc.fill_null(encoded.indices, count).to_numpy().astype(np.int64)
    place: dict[Any, int] = {}
    values: list[Any] = []
    codes = np.empty(len(column), np.int64)
    for start in range(0, len(column), CHUNK):
        for row, value in enumerate(column.slice(start, CHUNK).to_pylist(), start):
            key = value if isinstance(value, str | int | float | None) else repr(value)
            if key not in place:
                place[key] = len(values)
                values.append(value)
            codes[row] = place[key]
    return values, codes


def _names(rows: dict[str, pa.Array]) -> pa.Array:
    """sample_ids of all rows: those given, else the rows' numbers (or where paths are the same twice)."""
    ids = rows["sample_id"]
    if ids.null_count or not len(ids):
        return numbers(len(ids))
    return ids


def _order(source: EmbeddingSource) -> pa.Array | None:
    """Places of the rows in the order of their names; None where they stand in it already."""
    return None if Names.of(source.sample_ids).rising else pc.sort_indices(source.sample_ids)


def _taken(column: pa.Array, order: pa.Array | None) -> pa.Array:
    return column if order is None else column.take(order)


def _require_distinct(source: EmbeddingSource, ids: pa.Array, order: pa.Array | None) -> None:
    if order is None:
        return
    twice = pc.equal(ids.slice(1), ids.slice(0, max(len(ids) - 1, 0)))
    at = pc.index(twice, True).as_py()
    if at >= 0:
        first, second = sorted(order.slice(at, 2).to_pylist())
        raise DatasetError(
            f"{source.where(second)}: sample_id {ids[at].as_py()!r} is that of {source.where(first)} too; keep one of "
            "them, or rename it"
        )


def _labels(
    source: EmbeddingSource, rows: dict[str, pa.Array], request: Request
) -> tuple[list[str], Int32Array, list[str]]:
    """(class names, class index of each row or -1, notes)."""
    texts = rows["label"].dictionary_encode()
    found = texts.dictionary.to_pylist()
    codes = pc.fill_null(texts.indices, -1).to_numpy(zero_copy_only=False)
    first = source.files[0]
    given = request.classes or request.named
    names = None if request.classes is not None else class_label_names(first.table.schema, first.columns.label)
    notes: list[str] = []
    if names is None and given is not None:
        names = given.names
    if names is None:
        names, notes = names_of(found, np.bincount(codes[codes >= 0], minlength=len(found)).tolist())
        if not names:
            raise DatasetError(
                f"{request.name}: no labels and so no class names; give them with --classes or --class-embeddings"
            )
    read = LabelReader(names)
    index = np.full(len(found) + 1, -1, np.int32)
    for place, text in enumerate(found):
        try:
            label = class_of(text, read)
        except UnknownLabel as error:
            row = int(np.flatnonzero(codes == place)[0])
            raise DatasetError(f"{source.where(row)}: {error}") from None
        index[place] = -1 if label is None else label
    labels: Int32Array = index[codes]
    return names, labels, notes


def _parts(source: EmbeddingSource, rows: dict[str, pa.Array], labels: Int32Array, *, has_test: bool) -> pa.Array:
    """The part of each row; with test rows from elsewhere (`has_test`), those that would be test are pool."""
    texts = rows["part"].dictionary_encode()
    found: Sequence[str] = texts.dictionary.to_pylist()
    if not any(found) and (labels >= 0).all():
        test = 0.0 if has_test else 0.2
        chosen = part_codes(Names.of(source.sample_ids), labels, val=0.1, test=test)
        return pa.array(PART_NAMES).take(pa.array(chosen))
    names = []
    for place, text in enumerate(found):
        part = PART_OF.get(text.strip().lower())
        if part is None:
            row = pc.index(texts.indices, place).as_py()
            raise DatasetError(f"{source.where(row)}: part {text!r} is unknown; use pool, train, val or test")
        names.append("pool" if has_test and part == "test" else part)
    return pa.array(names, pa.string()).take(texts.indices)
