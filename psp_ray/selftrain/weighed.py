"""UST by the evidence-weighed posterior: as `psp_ray.selftrain.ust`, with the posterior as the teacher of views."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.records import Float64Array, Int64Array
from psp_ray.posterior.evidence import Posterior
from psp_ray.selftrain.ust import BlockScores

_CHUNK = 1 << 22  # probabilities of views in work at a time


def score_block(
    posterior: Posterior,
    index: int,
    rows: Int64Array,
    views: NDArray[Any] | None,
    *,
    uncertainty: str = "averaged-class",
    probabilities: bool = False,
) -> BlockScores:
    """Pseudo-labels, confidences and uncertainties of the `rows` (k,) of a block of the pool.

    Label and confidence are the posterior's of the whole image. Uncertainty is the standard deviation (ddof 0) over
    the `views` (k, L, d) of the probability that the posterior gives to that label in each of them (`averaged-class`)
    or of each view's own confidence (`confidence`); 0 without views, which is no claim, but nothing to judge by.
    """
    table = posterior.block(index)[rows]
    labels = table.argmax(axis=1).astype(np.int32)
    confidence = table.max(axis=1, initial=0.0)
    spread = np.zeros(len(rows), np.float32)
    if views is not None and views.shape[1]:
        height = max(1, _CHUNK // (views.shape[1] * posterior.n_classes))
        start = posterior.start_of(index)
        for at in range(0, len(rows), height):
            span = slice(at, at + height)
            seen = posterior.of_views(views[span], start + rows[span]).astype(np.float64)
            chosen = seen.max(axis=2)
            if uncertainty == "averaged-class":
                chosen = np.take_along_axis(seen, labels[span, None, None].astype(np.int64), axis=2)[:, :, 0]
            spread[span] = chosen.std(axis=1)
    odds: Float64Array | None = table.astype(np.float64) if probabilities else None
    return BlockScores(labels, confidence, spread, odds)
