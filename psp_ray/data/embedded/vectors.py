"""Rows of numbers out of Arrow columns: fixed-size or plain lists of any float type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import NDArray

from psp_ray.core.errors import DatasetError

SHOWN = 4
"""Rows that are named beside the first one with a fault."""


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


def vector_rows(
    column: pa.Array, width: int, where: Sequence[int], what: str, faults: dict[int, str] | None = None
) -> NDArray[Any]:
    """(m, width) of a batch's column, of the column's own float type and without copying where it can be.

    Args:
        where: row numbers for messages, of the batch's rows. what: file and column, for messages. faults: is told which
            rows can't be used and why, by their place in the batch; they are zeros then.

    Raises:
        DatasetError: without `faults`: an empty row, or one of another length.
    """
    column = _plain(column)
    return _sound(column, width, _settled(_faults(column, width), where, what, faults))


def view_rows(
    column: pa.Array,
    count: int,
    width: int,
    where: Sequence[int],
    what: str,
    faults: dict[int, str] | None = None,
) -> NDArray[Any]:
    """(m, count, width) of a batch's column of views: lists of lists, or lists of count * width numbers.

    Raises:
        DatasetError: as `vector_rows`.
    """
    column = _plain(column)
    if is_vector(column.type):
        return vector_rows(column, count * width, where, what, faults).reshape(len(column), count, width)
    outer = _faults(column, count, " views")
    whole = np.setdiff1d(np.arange(len(column)), list(outer))
    inner = _plain(column.take(pa.array(whole)).flatten() if outer else column.flatten())
    within = _faults(inner, width)
    found = outer | {int(whole[place // count]): reason for place, reason in reversed(within.items())}
    views = _sound(inner, width, within).reshape(len(whole), count, width)
    if not _settled(found, where, f"{what} (views)", faults):
        return views
    rows = np.zeros((len(column), count, width), views.dtype)
    rows[whole] = views
    rows[list(found)] = 0  # also where only one of its views can't be read
    return rows


def more_rows(rows: Sequence[int]) -> str:
    """What is put behind the first of `rows` (their numbers) in a message: how many others are like it, and which."""
    if len(rows) < 2:
        return ""
    shown = ", ".join(str(row) for row in rows[1 : 1 + SHOWN])
    count = len(rows) - 1
    return f" (and {count:,} more {'row' if count == 1 else 'rows'}: {shown}{', ...' if count > SHOWN else ''})"


def first_length(column: pa.Array) -> int | None:
    """Length of the first list that isn't empty; None where there is none."""
    lengths = [len(value) for value in _plain(column).slice(0, 1).to_pylist() if value is not None]
    return lengths[0] if lengths else None


def _faults(column: pa.Array, width: int, unit: str = "") -> dict[int, str]:
    """By place, in order, what is wrong with lists that are to hold `width` numbers, or other things called `unit`."""
    missing = _nulls(column)
    lengths = _lengths(column)
    # A row that is null may still take room in a list of fixed size, and none in another one.
    wrong = {int(row): f"has length {int(lengths[row])}, others {width}" for row in np.flatnonzero(lengths != width)}
    if unit:
        wrong = {row: f"has {int(lengths[row])}{unit}, others {width}" for row in wrong}
    wrong |= {int(row): "is empty" for row in np.flatnonzero(missing)}
    inner = column.flatten()
    if inner.null_count:
        kept = np.flatnonzero(~missing)
        row_of = np.repeat(kept, lengths[kept])
        wrong = {int(row): "has an empty value" for row in row_of[_nulls(inner)]} | wrong
    return dict(sorted(wrong.items()))


def _nulls(column: pa.Array) -> NDArray[np.bool_]:
    if not column.null_count:
        return np.zeros(len(column), bool)
    found: NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    return found


def _lengths(column: pa.Array) -> NDArray[np.int64]:
    if pt.is_fixed_size_list(column.type):
        return np.full(len(column), column.type.list_size, np.int64)
    found: NDArray[np.int64] = np.diff(column.offsets.to_numpy()[: len(column) + 1]).astype(np.int64)
    return found


def _settled(found: dict[int, str], where: Sequence[int], what: str, faults: dict[int, str] | None) -> dict[int, str]:
    """`found`, told to `faults`. Raises DatasetError for the first of them where nobody is to be told."""
    if faults is not None:
        faults.update(found)
    elif found:
        rows = [int(where[place]) for place in found]
        reason = next(iter(found.values()))
        raise DatasetError(f"{what}: row {rows[0]} {reason}{more_rows(rows)}; repair it or leave the row out")
    return found


def _sound(column: pa.Array, width: int, faults: Mapping[int, str]) -> NDArray[Any]:
    """(m, width) numbers, zeros in the rows that are among `faults`."""
    if not faults:
        values: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(column), width)
    kept = np.setdiff1d(np.arange(len(column)), list(faults))
    values = column.take(pa.array(kept)).flatten().to_numpy(zero_copy_only=False)
    rows = np.zeros((len(column), width), values.dtype)
    rows[kept] = values.reshape(len(kept), width)
    return rows


def _plain(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_fixed_size_list(kind) or pt.is_list(kind) or pt.is_large_list(kind))
