"""True classes by content hash, in 20 bytes each: what a shared oracle answers from, of pools of millions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.names import CHUNK, Digests, halves, is_hash
from psp_ray.core.records import Int32Array, Int64Array, UInt64Array


@dataclass(frozen=True)
class _Known:
    """Sorted keys in two halves (n,) each, and the `labels` (n,) that belong to them."""

    upper: UInt64Array
    lower: UInt64Array
    labels: Int32Array

    def find(self, upper: UInt64Array, lower: UInt64Array) -> Int64Array:
        """Rows (k,) of some keys, -1 where they are not known."""
        at = np.searchsorted(self.upper, upper)
        found = np.full(len(upper), -1, np.int64)
        left = np.arange(len(upper))
        while len(left):  # more than once only where upper halves of different keys are the same
            left = left[at[left] < len(self.upper)]
            left = left[self.upper[at[left]] == upper[left]]
            same = self.lower[at[left]] == lower[left]
            found[left[same]] = at[left[same]]
            left = left[~same]
            at[left] += 1
        return found


class TrueClasses(Mapping[str, int]):
    """{content hash: class}, of which more and more become known. Safe for threads that read while one adds.

    A hash is known by its 16 bytes, any other text by its BLAKE2b of that size.
    """

    def __init__(self) -> None:
        self._known = _Known(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int32))

    def add(self, content_hashes: Sequence[str], labels: Int32Array) -> tuple[int, int] | None:
        """Learn the classes (n,) of some contents; of one that is there twice, the last.

        Returns:
            None; or, where another class was known of one of them, its row and that class: then nothing is learned.
        """
        known, (upper, lower) = self._known, _keys(content_hashes)
        at = known.find(upper, lower)
        differs = (
            np.flatnonzero((at >= 0) & (known.labels[at] != labels)) if len(known.labels) else np.zeros(0, np.int64)
        )
        upper, lower = np.concatenate([known.upper, upper]), np.concatenate([known.lower, lower])
        every = np.concatenate([known.labels, labels.astype(np.int32)])
        order = np.lexsort((np.arange(len(every)), lower, upper))
        upper, lower, every = upper[order], lower[order], every[order]
        last = np.ones(len(every), bool)
        last[:-1] = (upper[1:] != upper[:-1]) | (lower[1:] != lower[:-1])
        merged = _Known(upper[last], lower[last], every[last])
        for row in differs.tolist():  # unless a later row of the same content says otherwise
            if merged.labels[merged.find(*_keys([content_hashes[row]]))[0]] != known.labels[at[row]]:
                return row, int(known.labels[at[row]])
        self._known = merged
        return None

    def __getitem__(self, content_hash: str) -> int:
        known = self._known
        at = known.find(*_keys([content_hash]))[0] if isinstance(content_hash, str) else -1
        if at < 0:
            raise KeyError(content_hash)
        return int(known.labels[at])

    def __iter__(self) -> Iterator[str]:
        known = self._known
        words = np.stack([known.upper, known.lower], axis=1).astype(">u8")
        return iter(Digests(words.view(np.uint8).reshape(-1, 16)))

    def __len__(self) -> int:
        return len(self._known.labels)


def _keys(content_hashes: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    if isinstance(content_hashes, Digests):
        return halves(content_hashes.hashes)
    parts = [np.zeros((0, 16), np.uint8)]
    for start in range(0, len(content_hashes), CHUNK):
        data = b"".join(_key(text) for text in content_hashes[start : start + CHUNK])
        parts.append(np.frombuffer(data, np.uint8).reshape(-1, 16))
    return halves(np.concatenate(parts))


def _key(text: str) -> bytes:
    return bytes.fromhex(text) if is_hash(text) else hashlib.blake2b(text.encode(), digest_size=16).digest()
