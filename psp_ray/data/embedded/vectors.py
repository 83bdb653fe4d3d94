"""Rows of numbers out of Arrow columns: fixed-size or plain lists of any float type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import NDArray

from psp_ray.core.errors import DatasetError


def is_vector(kind: pa.DataType) -> bool:
    """Whether a column's type is a list of floats, with a fixed size or not."""
    kind = _storage(kind)
    return _is_list(kind) and pt.is_floating(_storage(kind.value_type))


def is_vectors(kind: pa.DataType) -> bool:
    """Whether a column's type is a list of lists of floats."""
    kind = _storage(kind)
    return _is_list(kind) and is_vector(kind.value_type)


def width_of(kind: pa.DataType) -> int | None:
    """The length that a fixed-size list has in every row; None where rows may differ."""
    kind = _storage(kind)
    return int(kind.list_size) if pt.is_fixed_size_list(kind) else None


def vector_rows(column: pa.Array, width: int, where: Sequence[int], what: str) -> NDArray[Any]:
    """(m, width) of a batch's column, of the column's own float type and without copying where it can be.

    Args:
        where: row numbers for messages, of the batch's rows. what: file and column, for messages.

    Raises:
        DatasetError: an empty row, or one of another length.
    """
    column = _plain(column)
    _require_whole(column, where, what)
    if not pt.is_fixed_size_list(column.type):
        lengths = np.diff(column.offsets.to_numpy()[: len(column) + 1])
        _require_width(lengths, width, where, what)
    elif column.type.list_size != width:
        _require_width(np.full(len(column), column.type.list_size), width, where, what)
    return _numbers(column.flatten(), width, where, what).reshape(len(column), width)


def view_rows(column: pa.Array, count: int, width: int, where: Sequence[int], what: str) -> NDArray[Any]:
    """(m, count, width) of a batch's column of views: lists of lists, or lists of count * width numbers.

    Raises:
        DatasetError: as `vector_rows`.
    """
    column = _plain(column)
    if is_vector(column.type):
        return vector_rows(column, count * width, where, what).reshape(len(column), count, width)
    _require_whole(column, where, what)
    inner = _plain(column.flatten())
    if not pt.is_fixed_size_list(column.type):
        lengths = np.diff(column.offsets.to_numpy()[: len(column) + 1])
        _require_width(lengths, count, where, f"{what} (views)")
    elif column.type.list_size != count:
        _require_width(np.full(len(column), column.type.list_size), count, where, f"{what} (views)")
    return vector_rows(inner, width, np.repeat(np.asarray(where), count).tolist(), what).reshape(
        len(column), count, width
    )


def first_length(column: pa.Array) -> int | None:
    """Length of the first list that isn't empty; None where there is none."""
    lengths = [len(value) for value in _plain(column).slice(0, 1).to_pylist() if value is not None]
    return lengths[0] if lengths else None


def _numbers(flat: pa.Array, width: int, where: Sequence[int], what: str) -> NDArray[Any]:
    if flat.null_count:
        row = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // max(width, 1)
        raise DatasetError(f"{what}: row {where[row]} has an empty value; fill it in or leave the row out")
    values: NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    return values


def _require_whole(column: pa.Array, where: Sequence[int], what: str) -> None:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DatasetError(f"{what}: row {where[row]} is empty; fill it in or leave the row out")


def _require_width(lengths: NDArray[Any], width: int, where: Sequence[int], what: str) -> None:
    wrong = np.flatnonzero(lengths != width)
    if len(wrong):
        row = int(wrong[0])
        raise DatasetError(
            f"{what}: row {where[row]} has length {int(lengths[row])}, others {width}; all rows must be of one model"
        )


def _plain(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_fixed_size_list(kind) or pt.is_list(kind) or pt.is_large_list(kind))
