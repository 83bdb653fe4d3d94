"""Which images of a query set look alike, so that people may label them together."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # its parts are imported where they are first used
from numpy.typing import NDArray

from psp_ray.core.records import Int64Array, PoolReader

GROUP = 8
"""Images of a group that look alike, on average."""


def alike(pool: PoolReader, positions: Int64Array) -> list[int]:
    """A number (k,) for each of the images at `positions`: clusters of about `GROUP` by their features, whatever
    anybody believes that they show."""
    return groups(pool.rows(positions), -(-len(positions) // GROUP))


def groups(rows: NDArray[Any], count: int) -> list[int]:
    """Which of `count` clusters each of `rows` (n, d) is in, by Ward's method; fewer where rows are the same."""
    if count < 2:
        return [0] * len(rows)
    # scikit-learn's has the same tree from here, and takes seconds to import before the first image is shown.
    tree = scipy.cluster.hierarchy.ward(rows.astype(np.float64))
    found = scipy.cluster.hierarchy.fcluster(tree, count, criterion="maxclust")
    return [int(number) - 1 for number in found]
