"""`views: on-demand`: which samples are worth encoding views of, since only they can become pseudo-labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.records import Float32Array, Int32Array, Int64Array, PoolReader, TextState
from psp_ray.learn.evaluate import predict_proba

MARGIN = 0.25
"""Views may be surer than the image itself by this much: samples less sure than the threshold less it are left out."""
SPARE = 4
"""Candidates per class, as a multiple of the cap: views sort some of them out, the query set takes others."""


def confidences(pool: PoolReader, text: TextState, positions: Int64Array) -> tuple[Int32Array, Float32Array]:
    """Predicted class and its probability (k,) of the images themselves, block by block. Cheap: no view is needed."""
    labels, sure = np.empty(len(positions), np.int32), np.empty(len(positions), np.float32)
    for index in range(pool.n_blocks):
        block = pool.block(index)
        low, high = np.searchsorted(positions, [block.start, block.start + len(block.keys)])
        if low == high:
            continue
        chances = predict_proba(text, block.features)[positions[low:high] - block.start]
        labels[low:high] = chances.argmax(axis=1)
        sure[low:high] = chances.max(axis=1)
    return labels, sure


def near_decision(
    positions: Int64Array, labels: NDArray[np.int32], confidence: Float32Array, settings: SelfTrainingSettings
) -> Int64Array:
    """Sorted candidates among `positions`: sure enough for the threshold, and of each class no more than can be kept.

    With `pseudo_floor` every class has at least its floor of candidates, however unsure. Labels below 0 are none.
    Ties break by position.
    """
    order = np.lexsort((positions, -confidence))
    rank = np.empty(len(positions), np.int64)
    for c in np.unique(labels):
        mine = order[labels[order] == c]
        rank[mine] = np.arange(len(mine))
    most = SPARE * settings.pseudo_cap if settings.pseudo_cap else len(positions)
    sure = (confidence >= settings.confidence_min - MARGIN) & (rank < most)
    chosen = (labels >= 0) & (sure | (rank < SPARE * settings.pseudo_floor))
    return positions[chosen]
