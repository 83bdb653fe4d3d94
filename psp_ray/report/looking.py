"""What the page of a run computes of features and predictions. Arrays in, arrays out; nothing is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.records import Float64Array, Int64Array


class Plane:
    """The two main directions of some features (principal components), and where other features lie in them.

    scikit-learn's, signs included, without the second and more that importing it takes.

    Args:
        features: (n, d) with n > 2; a few thousand are enough to know the directions.
    """

    def __init__(self, features: NDArray[Any]):
        wide = np.asarray(features, np.float64)
        self._mean = wide.mean(axis=0)
        axes = np.linalg.svd(wide - self._mean, full_matrices=False)[2][:2]
        largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
        self._axes = axes * np.sign(largest)[:, None]

    def places(self, features: NDArray[Any]) -> Float64Array:
        """(k, 2) of features (k, d)."""
        found: Float64Array = (np.asarray(features, np.float64) - self._mean) @ self._axes.T
        return found


def nearest_cosine(features: NDArray[Any], labeled: NDArray[Any]) -> Float64Array:
    """(n,) cosine of each of `features` (n, d) to the nearest of `labeled` (m, d); rows have length one, m > 0."""
    one, other = np.asarray(features, np.float32), np.asarray(labeled, np.float32)
    best: Float64Array = (one @ other.T).max(axis=1).astype(np.float64)
    return best


def share_nearer(picked: Float64Array, pool: Float64Array) -> Float64Array:
    """(k,) the share of `pool` (n,) whose cosine to the labeled images is above that of each of `picked` (k,).

    Labeled images are no part of that pool: each is as near to itself as can be.
    """
    ordered = np.sort(pool)
    return 1.0 - np.searchsorted(ordered, picked, side="right") / max(len(ordered), 1)


def moves(before: Int64Array, after: Int64Array, names: Sequence[str], most: int) -> list[tuple[str, str, int]]:
    """(from, to, count) of the classes between which most predictions moved, the most frequent first."""
    changed = np.flatnonzero(before != after)
    found = Counter(zip(before[changed].tolist(), after[changed].tolist(), strict=True))
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:most]
    return [(names[i], names[j], count) for (i, j), count in ordered]


def confusion(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> list[list[int]]:
    """`counts[true][predicted]` of class indices (n,) in 0..classes - 1; -1 where the truth isn't known."""
    known = np.asarray(truth) >= 0
    pairs = np.asarray(truth, np.int64)[known] * classes + np.asarray(predicted, np.int64)[known]
    counts: list[list[int]] = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).tolist()
    return counts
