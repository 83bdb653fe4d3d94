"""Soft labels for heads: the posterior of the pool, and what it would be without some of the labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from psp_ray.core.records import Float32Array, HeldOut, Int64Array, SoftLabels
from psp_ray.selftrain.records import SoftTargets

Infer = Callable[[Int64Array], Float32Array]
"""Probabilities (p, C) of all positions from some of the purchases, named by their rows (k,), rising."""


def soft_labels(
    positions: Int64Array, infer: Infer, n_labeled: int, folds: int, most: int | None = None
) -> SoftTargets:
    """`LearnRequest.soft` and `.held_out`: the posterior at `positions` (p,) sorted, and again without each fold.

    The `n_labeled` purchases are dealt out in turn, so that every round's are spread over all folds. With fewer than
    two purchases or folds nothing is held out; `most`: so many folds are looked at, if not all. `infer` is called once,
    and once more for each fold, with what is left: all that it finds (graph, class means, weights, temperature) has
    then never met the held labels.
    """
    rows = np.arange(n_labeled, dtype=np.int64)
    soft = SoftLabels(positions, np.asarray(infer(rows), np.float32))
    folds = min(folds, n_labeled)
    if folds < 2:
        return SoftTargets(soft, ())
    held = [rows[start::folds] for start in range(folds)][:most]
    return SoftTargets(
        soft,
        tuple(
            HeldOut(part, np.asarray(infer(np.setdiff1d(rows, part, assume_unique=True)), np.float32)) for part in held
        ),
    )
