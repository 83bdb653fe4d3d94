"""Fixed stratified parts: which images are pool, val and test where nobody has said so."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence


def stratified_parts(sample_ids: Sequence[str], labels: Sequence[int], *, val: float, test: float) -> list[str]:
    """A part for each sample, the same for ever: within a class, samples are ranked by a hash of their name.

    Depends on names and classes alone, on no seed and no order. `val` and `test` are fractions of each class, rounded;
    a class with at least three images is in all three parts, one with two in pool and test (unless `test` is 0).
    """
    members: dict[int, list[tuple[bytes, str, int]]] = defaultdict(list)
    for row, (name, label) in enumerate(zip(sample_ids, labels, strict=True)):
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16, person=b"psp-parts").digest()
        members[label].append((digest, name, row))
    parts = ["pool"] * len(sample_ids)
    for ranked in members.values():
        n = len(ranked)
        n_test = max(round(test * n), 1 if n >= 2 and test > 0 else 0)
        n_val = max(round(val * n), 1 if n >= 3 else 0)
        for rank, (_, _, row) in enumerate(sorted(ranked)):
            if rank < n_test:
                parts[row] = "test"
            elif rank < n_test + n_val:
                parts[row] = "val"
    return parts
