"""Names of millions of images, in a few bytes each: sequences of texts that are Arrow columns or arrays of hashes.

A Python list takes some 60 bytes for a name of ten letters and 80 for a hash in hex, a dictionary of them 100 more.
Here a name takes its letters and 4 bytes, a hash its 16, and looking some names up among all takes a pass, no index.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from psp_ray.core.records import Int64Array

CHUNK = 1 << 16
"""Names in work at a time, where they have to be Python's."""
ABSENT = -1


@dataclass(frozen=True, eq=False)
class Names(Sequence[str]):
    """Texts that are a column `name` of a table. Equal to any sequence of the same texts."""

    table: pa.Table

    def __post_init__(self) -> None:
        if self.table.column_names != ["name"] or self.table.schema.field(0).type not in (
            pa.string(),
            pa.large_string(),
        ):
            raise ValueError(f"names are a column 'name' of texts, not {self.table.schema}")

    @classmethod
    def of(cls, names: Sequence[str] | pa.Array | pa.ChunkedArray) -> Names:
        """The same texts; what is an Arrow column is not copied."""
        if isinstance(names, Names):
            return names
        column = names if isinstance(names, pa.Array | pa.ChunkedArray) else pa.array(list(names), pa.string())
        return cls(pa.table({"name": column}))

    @property
    def column(self) -> pa.ChunkedArray:
        return self.table["name"]

    @cached_property
    def _one(self) -> pa.Array:
        """The column as one array: its items are at hand at once."""
        column = self.column
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self.at(np.arange(*index.indices(len(self)), dtype=np.int64))
        text: str = self._one[int(index)].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        for batch in self.table.to_batches(max_chunksize=CHUNK):
            yield from batch.column(0).to_pylist()

    def __eq__(self, other: object) -> bool:
        return _same(self, other)

    __hash__ = None  # type: ignore[assignment]

    def at(self, positions: Int64Array) -> list[str]:
        """Those at `positions` (k,), in the order asked for."""
        texts: list[str] = self.take(positions).to_pylist()
        return texts

    def take(self, positions: Int64Array) -> pa.Array:
        """The same as a column."""
        return self._one.take(pa.array(positions, pa.int64()))

    def find(self, wanted: Sequence[str]) -> Int64Array:
        """The first position (k,) of each of `wanted`, or `ABSENT`. A pass over the names, and no index."""
        found = np.full(len(wanted), ABSENT, np.int64)
        texts = pa.array(list(wanted), pa.string())
        if not len(texts):
            return found
        distinct = texts.unique()
        first = np.full(len(distinct), ABSENT, np.int64)
        start = 0
        for batch in self.table.to_batches(max_chunksize=1 << 20):
            place = pc.fill_null(pc.index_in(batch.column(0).cast(pa.string()), value_set=distinct), ABSENT).to_numpy()
            rows = np.flatnonzero(place >= 0)[::-1]  # of what is there twice the first row is written last
            news = first[place[rows]] == ABSENT
            first[place[rows][news]] = start + rows[news]
            start += batch.num_rows
        places: Int64Array = first[pc.index_in(texts, value_set=distinct).to_numpy()]
        return places

    @cached_property
    def rising(self) -> bool:
        """Whether each name stands before the next in the order of their code points, and none is there twice."""
        for start in range(0, max(len(self) - 1, 0), 1 << 20):
            part = self._one.slice(start, (1 << 20) + 1)
            if not bool(pc.all(pc.less(part.slice(0, len(part) - 1), part.slice(1))).as_py()):
                return False
        return True

    def position(self, name: str) -> int:
        """Where a name is, or `ABSENT`: at once where names rise, else as `find`."""
        if not self.rising:
            return int(self.find([name])[0])
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self[middle] < name:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self[low] == name else ABSENT


@dataclass(frozen=True, eq=False)
class Digests(Sequence[str]):
    """Hashes (n, 16) uint8, each read as 32 hex digits. Equal to any sequence of the same texts."""

    hashes: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.hashes.dtype != np.uint8 or self.hashes.ndim != 2 or self.hashes.shape[1] != 16:
            raise ValueError(f"hashes are (n, 16) bytes, not {self.hashes.shape} of {self.hashes.dtype}")

    @classmethod
    def of(cls, texts: Sequence[str]) -> Sequence[str]:
        """The same texts in 16 bytes each; as they are where one is no such hash."""
        if isinstance(texts, Digests):
            return texts
        try:
            data = b"".join(_bytes_of(text) for text in texts)
        except ValueError:
            return texts
        return cls(np.frombuffer(data, np.uint8).reshape(-1, 16))

    def __len__(self) -> int:
        return len(self.hashes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [row.tobytes().hex() for row in self.hashes[index]]
        return str(self.hashes[index].tobytes().hex())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            text = self.hashes[start : start + CHUNK].tobytes().hex()
            yield from (text[at : at + 32] for at in range(0, len(text), 32))

    def __eq__(self, other: object) -> bool:
        return _same(self, other)

    __hash__ = None  # type: ignore[assignment]

    def at(self, positions: Int64Array) -> list[str]:
        """Those at `positions` (k,), in the order asked for."""
        return list(Digests(self.hashes[positions]))

    def rows_of(self, wanted: Sequence[str]) -> tuple[Int64Array, Int64Array]:
        """(positions (r,) rising, rows (r,) of `wanted` that they equal): all places of what is wanted, each of which
        is wanted once. What is no hash is nowhere."""
        keys = [(row, bytes.fromhex(text)) for row, text in enumerate(wanted) if is_hash(text)]
        if not keys or not len(self):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        sought = np.array([key for _, key in keys], "V16")
        places, rows = [], []
        ordered = np.argsort(halves(sought)[0], kind="stable")
        upper, lower = (half[ordered] for half in halves(sought))
        numbers = np.array([row for row, _ in keys], np.int64)[ordered]
        for start in range(0, len(self), 1 << 20):
            high, low = halves(self.hashes[start : start + (1 << 20)])
            at = np.searchsorted(upper, high)
            near = np.flatnonzero(upper[np.minimum(at, len(upper) - 1)] == high)
            for row in near.tolist():
                place = int(at[row])
                while place < len(upper) and upper[place] == high[row]:
                    if lower[place] == low[row]:
                        places.append(start + row)
                        rows.append(int(numbers[place]))
                        break
                    place += 1
        return np.array(places, np.int64), np.array(rows, np.int64)


def _same(one: Sequence[str], other: object) -> bool:
    if not isinstance(other, Sequence) or isinstance(other, str):
        return False
    return len(one) == len(other) and all(a == b for a, b in zip(one, other, strict=True))


def is_hash(text: str) -> bool:
    """Whether a text is the 32 hex digits of 16 bytes, as psp-ray writes them."""
    return len(text) == 32 and text == text.lower() and all(letter in "0123456789abcdef" for letter in text)


def _bytes_of(text: str) -> bytes:
    if not is_hash(text):
        raise ValueError("no hash")
    return bytes.fromhex(text)


def halves(hashes: NDArray[Any]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """(upper, lower) 64 bits of hashes (n, 16) or of n of 16 bytes, whose order is that of the hashes."""
    words = np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 16).view(">u8")
    return words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)


@dataclass(frozen=True, eq=False)
class Looked(Mapping[str, Any]):
    """A mapping from `names` to `values`, one by one, without an index: names are looked up as they are asked for.

    `there` (n,) says which of them are in it; None: all.
    """

    names: Names
    values: Any
    there: NDArray[np.bool_] | None = None

    def __getitem__(self, name: str) -> Any:
        place = self.names.position(name) if isinstance(name, str) else ABSENT
        if place == ABSENT or not (self.there is None or self.there[place]):
            raise KeyError(name)
        value = self.values[place]
        return value.item() if isinstance(value, np.generic) else value

    def __iter__(self) -> Iterator[str]:
        if self.there is None:
            return iter(self.names)
        return (name for name, there in zip(self.names, self.there.tolist(), strict=True) if there)

    def __len__(self) -> int:
        return len(self.names) if self.there is None else int(self.there.sum())
