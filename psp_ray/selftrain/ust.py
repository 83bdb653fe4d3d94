"""UST: what the teacher says about an image from several augmented views of it (method.md, "UST")."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.records import Float32Array, Float64Array, Int32Array, TextState

_CHUNK_LOGITS = 1 << 22  # float32 logits in work at a time (16 MiB)


@dataclass(frozen=True)
class BlockScores:
    """The teacher's opinion on m samples: `labels` (m,) int32, `confidence` and `uncertainty` (m,) float32.

    `probabilities` (m, C) float64: softmax of the averaged logits; None where not asked for.
    """

    labels: Int32Array
    confidence: Float32Array
    uncertainty: Float32Array
    probabilities: Float64Array | None


def score_views(
    views: NDArray[Any],
    text: TextState,
    *,
    uncertainty: str = "averaged-class",
    probabilities: bool = False,
    wanted: NDArray[np.bool_] | None = None,
) -> BlockScores:
    """Pseudo-labels, confidences and uncertainties of one block from its `views` (m, L, d), float16 or float32.

    Logits `logit_scale * view . T_c` are averaged over the L views: the pseudo-label is the largest (ties: the lowest
    class), the confidence its softmax probability, the uncertainty the standard deviation (ddof 0) over the views of
    each view's own confidence (`confidence`) or of the averaged class's probability (`averaged-class`). Rows that are
    not `wanted` (m,) may be left at zero. Work goes in chunks of fixed size, so a row's bits depend on its block only.
    """
    m, n_views, dim = views.shape
    weights = np.ascontiguousarray(text.features.T, dtype=np.float32)
    n_classes = weights.shape[1]
    labels = np.zeros(m, np.int32)
    confidence = np.zeros(m, np.float32)
    spread = np.zeros(m, np.float32)
    table = np.zeros((m, n_classes)) if probabilities else None
    for span in _chunks(m, max(1, _CHUNK_LOGITS // (n_views * n_classes))):
        if wanted is not None and not wanted[span].any():
            continue
        rows = views[span].astype(np.float32).reshape(-1, dim)
        logits = (rows @ weights).reshape(-1, n_views, n_classes)
        logits *= np.float32(text.logit_scale)
        average = logits.mean(axis=1, dtype=np.float64)
        best = np.argmax(average, axis=1)
        top = np.take_along_axis(average, best[:, None], axis=1)
        odds = np.exp(average - top)
        total = odds.sum(axis=1)
        labels[span] = best
        confidence[span] = 1.0 / total
        if table is not None:
            table[span] = odds / total[:, None]
        spread[span] = _view_probability(logits, best if uncertainty == "averaged-class" else None).std(axis=1)
    return BlockScores(labels, confidence, spread, table)


def _view_probability(logits: Float32Array, classes: NDArray[np.int64] | None) -> Float64Array:
    """Probability (m, L) that each view gives to `classes` (m,), or to its own best class where that is None.

    Exponentials in float32 (they are the bulk of the work), their sums in float64.
    """
    top = logits.max(axis=2)
    total = np.exp(logits - top[:, :, None]).sum(axis=2, dtype=np.float64)
    if classes is None:
        confidence: Float64Array = 1.0 / total
        return confidence
    chosen = np.take_along_axis(logits, classes[:, None, None], axis=2)[:, :, 0]
    result: Float64Array = np.exp((chosen - top).astype(np.float64)) / total
    return result


def _chunks(m: int, size: int) -> Iterator[slice]:
    for start in range(0, m, size):
        yield slice(start, min(m, start + size))
