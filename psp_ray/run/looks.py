"""Which images of a query set look alike, so that people may label them together."""

from __future__ import annotations

import numpy as np

from psp_ray.core.records import Int64Array, PoolReader

GROUP = 8
"""Images of a group that look alike, on average."""


def alike(pool: PoolReader, positions: Int64Array) -> list[int]:
    """A number (k,) for each of the images at `positions`: clusters of about `GROUP` by their features, whatever
    anybody believes that they show."""
    from sklearn.cluster import AgglomerativeClustering

    count = -(-len(positions) // GROUP)
    if count < 2:
        return [0] * len(positions)
    rows = pool.rows(positions).astype(np.float32)
    return [int(number) for number in AgglomerativeClustering(count, linkage="ward").fit_predict(rows)]
