"""UST by the evidence-weighed posterior: as `psp_ray.selftrain.ust`, with the posterior as the teacher of views."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.posterior.evidence import Posterior
from psp_ray.selftrain.ust import BlockScores

_CHUNK = 1 << 22  # probabilities of views in work at a time


def score_block(
    posterior: Posterior,
    index: int,
    views: NDArray[Any] | None,
    *,
    uncertainty: str = "averaged-class",
    probabilities: bool = False,
    wanted: NDArray[np.bool_] | None = None,
) -> BlockScores:
    """Pseudo-labels, confidences and uncertainties of a block of the pool from its `views` (m, L, d).

    Label and confidence are the posterior's of the whole image. Uncertainty is the standard deviation (ddof 0) over
    the views of the probability that the posterior gives to that label in each of them (`averaged-class`) or of each
    view's own confidence (`confidence`); 0 without views, which is no claim, but nothing to judge by. Rows that are
    not `wanted` (m,) may have views of zeros. A row's bits depend on its block only.
    """
    table = posterior.block(index)
    labels = table.argmax(axis=1).astype(np.int32)
    spread = np.zeros(len(table), np.float32)
    if views is not None and views.shape[1]:
        height = max(1, _CHUNK // (views.shape[1] * posterior.n_classes))
        positions = posterior.start_of(index) + np.arange(len(table))
        for at in range(0, len(table), height):
            span = slice(at, at + height)
            if wanted is not None and not wanted[span].any():
                continue
            seen = posterior.of_views(views[span], positions[span]).astype(np.float64)
            chosen = seen.max(axis=2)
            if uncertainty == "averaged-class":
                chosen = np.take_along_axis(seen, labels[span, None, None].astype(np.int64), axis=2)[:, :, 0]
            spread[span] = chosen.std(axis=1)
    return BlockScores(labels, table.max(axis=1), spread, table.astype(np.float64) if probabilities else None)
