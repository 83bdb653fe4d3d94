"""Cross-fitting: judge a classifier by labels that nothing it is made of has seen.

A held-out label must leave no trace: not in the student, nor in the pseudo-labels that were propagated from it, nor in
the teacher that an earlier round taught with it, nor in the choice of head or temperature. So a fold is a *line of
descent* of its own: `refit` learns it anew from the kept labels, with pseudo-labels made from the kept labels under
the fold's own teacher, which is what the same fold had learned a round before (at first zero-shot). Rows keep their
folds, so that no fold ever meets a label that it left out before.

Only the audit stratum is judged, hence only its labels are left out. Where it is a small share of all labels one fold
does, and hardly any label is missing; a strategy that draws all by chance needs several.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.records import Float64Array, Int64Array
from psp_ray.posterior.audit import Answers, BoolArray, stratum

Refit = Callable[[int, BoolArray, Int64Array], NDArray[Any]]
"""`refit(fold, kept, rows)`: learn without the rows that aren't `kept` (m,), with all that depends on their labels, and
return logits (k, C) of the k held-out `rows`."""


def fold_count(audit_share: float, folds: int) -> int:
    """Folds that leave out at most 1/`folds` of all labels each, when a share `audit_share` of them is judged."""
    return max(1, int(np.ceil(audit_share * folds - 1e-9)))


def fold_of(answers: Answers, count: int) -> Int64Array:
    """Each row's fold (m,), -1 outside the stratum; the same in every later round (by the word of the sequence)."""
    mixed = (answers.order >> np.uint64(7)) % np.uint64(count)
    return np.where(stratum(answers), mixed.astype(np.int64), -1)


def crossfit(answers: Answers, count: int, refit: Refit) -> Float64Array:
    """Logits (m, C) of every label in the audit stratum from the fold that left it out; NaN elsewhere.

    Every fold is refitted, even one without labels to judge: its teacher has to keep pace.

    Raises:
        ValueError: `refit` returned another shape, or numbers that are not finite.
    """
    classed, fold = answers.answers >= 0, fold_of(answers, count)
    n_rows, n_classes = answers.logits.shape
    logits = np.full((n_rows, n_classes), np.nan)
    for number in range(count):
        rows = np.flatnonzero(classed & (fold == number)).astype(np.int64)
        found = np.asarray(refit(number, classed & (fold != number), rows), np.float64)
        if found.shape != (len(rows), n_classes) or not np.isfinite(found).all():
            raise ValueError(f"fold {number}: logits of shape {found.shape} for {len(rows)} held-out labels")
        logits[rows] = found
    return logits
