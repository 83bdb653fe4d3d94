"""What crosses an actor boundary: Arrow tables and small typed records, nothing else.

A record is a dataclass of `psp_ray` whose fields are numbers, strings, lists of them, arrays, Arrow tables, state
dictionaries, settings or further records. `pack` turns it into a `Packet`: its plain fields plus one Arrow table with
a row per array. Ray ships Arrow buffers without copying them within a node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from psp_ray.config.base import Settings

_ALIGNMENT = 64
_SCALARS = (str, int, float, bool, type(None))
_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("dtype", pa.string()),
        ("shape", pa.list_(pa.int64())),
        ("data", pa.large_binary()),
    ]
)


@dataclass(frozen=True)
class Packet:
    """A packed value: a plain tree whose array leaves are row numbers of `arrays`."""

    tree: Any
    arrays: pa.Table


def pack(value: Any) -> Packet:
    """Pack a record, settings, a state dictionary, a plain value or a list of such.

    Raises:
        TypeError: the value holds something that may not cross an actor boundary.
    """
    rows: list[NDArray[Any]] = []
    tree = _flatten(value, rows)
    arrays = pa.table(
        {
            "name": [str(i) for i in range(len(rows))],
            "dtype": [row.dtype.str for row in rows],
            "shape": [list(row.shape) for row in rows],
            "data": _data(rows),
        },
        schema=_SCHEMA,
    )
    return Packet(tree, arrays)


def unpack(packet: Packet) -> Any:
    """The value that `pack` was given. Arrays are read-only views of the Arrow buffers."""
    if packet.arrays.num_rows == 0:
        return _restore(packet.tree, [])
    shapes = packet.arrays["shape"].to_pylist()
    dtypes = packet.arrays["dtype"].to_pylist()
    column = packet.arrays["data"].combine_chunks()
    _, offsets_buffer, data = column.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64, count=len(column), offset=8 * column.offset)
    arrays = [
        np.frombuffer(
            data or b"", dtype=dtype, count=math.prod(shape), offset=int(offset) if math.prod(shape) else 0
        ).reshape(shape)
        for offset, dtype, shape in zip(offsets, dtypes, shapes, strict=True)
    ]
    return _restore(packet.tree, arrays)


def _data(rows: list[NDArray[Any]]) -> pa.Array:
    """The arrays' bytes, copied once; each starts on a cache line: sums may depend on alignment."""
    ends = np.cumsum([0, *(row.nbytes + -row.nbytes % _ALIGNMENT for row in rows)], dtype=np.int64)
    buffer = pa.allocate_buffer(int(ends[-1]))
    data = np.frombuffer(buffer, np.uint8)
    for row, start, end in zip(rows, ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        data[start : start + row.nbytes] = row.reshape(-1).view(np.uint8)
        data[start + row.nbytes : end] = 0
    return pa.Array.from_buffers(pa.large_binary(), len(rows), [None, pa.py_buffer(ends), buffer])


def _flatten(value: Any, rows: list[NDArray[Any]]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (_SCALARS, pa.Table)):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("object arrays may not cross an actor boundary")
        rows.append(np.ascontiguousarray(value).reshape(value.shape))
        return ("array", len(rows) - 1)
    if isinstance(value, dict):
        return ("dict", {str(key): _flatten(item, rows) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        if all(isinstance(item, str) for item in value):
            return ("list", list(value))  # long lists of names: skip the walk
        return ("list", [_flatten(item, rows) for item in value])
    kind = type(value)
    if isinstance(value, Settings) and kind.__module__.split(".")[0] == "psp_ray":
        return ("settings", f"{kind.__module__}:{kind.__qualname__}", value.model_dump(mode="json"))
    if is_dataclass(value) and kind.__module__.split(".")[0] == "psp_ray":
        content = {field.name: _flatten(getattr(value, field.name), rows) for field in fields(value)}
        return ("record", f"{kind.__module__}:{kind.__qualname__}", content)
    raise TypeError(f"{kind.__name__} may not cross an actor boundary; make it a record or an Arrow table")


def _restore(tree: Any, arrays: list[NDArray[Any]]) -> Any:
    if not isinstance(tree, tuple):
        return tree
    if tree[0] == "array":
        return arrays[tree[1]]
    if tree[0] == "dict":
        return {key: _restore(item, arrays) for key, item in tree[1].items()}
    if tree[0] == "list":
        return [_restore(item, arrays) for item in tree[1]]
    module, _, name = tree[1].partition(":")
    if module.split(".")[0] != "psp_ray":
        raise TypeError(f"record of foreign module {module}")
    kind = getattr(import_module(module), name)
    if not isinstance(kind, type) or not (is_dataclass(kind) or issubclass(kind, Settings)):
        raise TypeError(f"{name} is no record")
    if tree[0] == "settings":
        return kind(**tree[2])
    return kind(**{key: _restore(item, arrays) for key, item in tree[2].items()})
