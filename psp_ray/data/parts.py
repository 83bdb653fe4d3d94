"""Fixed stratified parts: which images are pool, val and test where nobody has said so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

PART_NAMES = ("pool", "val", "test")
_CHUNK = 1 << 16  # names that are Python's at a time


def stratified_parts(sample_ids: Sequence[str], labels: Sequence[int], *, val: float, test: float) -> list[str]:
    """A part for each sample, the same for ever: within a class, samples are ranked by a hash of their name.

    Depends on names and classes alone, on no seed and no order. `val` and `test` are fractions of each class, rounded;
    a class with at least three images is in all three parts, one with two in pool and test (unless `test` is 0).
    """
    if len(sample_ids) != len(labels):
        raise ValueError(f"{len(sample_ids)} names but {len(labels)} labels")
    codes = part_codes(sample_ids, np.asarray(labels, np.int64), val=val, test=test)
    return [PART_NAMES[code] for code in codes.tolist()]


def part_codes(sample_ids: Iterable[str], labels: NDArray[np.integer], *, val: float, test: float) -> NDArray[np.uint8]:
    """The same for millions: places (n,) in `PART_NAMES`, of names in any order with `labels` (n,)."""
    words = _ranks(sample_ids, len(labels))
    order = np.lexsort((words[:, 1], words[:, 0], labels))
    ranked = labels[order]
    starts = np.flatnonzero(np.diff(ranked, prepend=ranked[:1] - 1)) if len(ranked) else np.zeros(0, np.int64)
    codes = np.zeros(len(labels), np.uint8)
    for start, n in zip(starts.tolist(), np.diff(starts, append=len(ranked)).tolist(), strict=True):
        n_test = max(round(test * n), 1 if n >= 2 and test > 0 else 0)
        n_val = max(round(val * n), 1 if n >= 3 else 0)
        codes[order[start : start + n_test]] = 2
        codes[order[start + n_test : start + min(n_test + n_val, n)]] = 1
    return codes


def _ranks(sample_ids: Iterable[str], count: int) -> NDArray[np.uint64]:
    """Hashes of names as numbers (n, 2): upper and lower 64 bits."""
    names, words, done = iter(sample_ids), np.empty((count, 2), np.uint64), 0
    while some := list(islice(names, _CHUNK)):
        digests = [
            hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16, person=b"psp-parts").digest()
            for name in some
        ]
        words[done : done + len(some)] = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2)
        done += len(some)
    return words
