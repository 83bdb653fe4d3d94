"""Soft labels: what is held out is not known to what is inferred."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from psp_ray.selftrain.soft import soft_labels


@given(st.integers(0, 40), st.integers(0, 8))
def test_each_label_is_held_out_once_and_unknown_to_its_fold(n_labeled, folds):
    asked = []

    def infer(rows):
        asked.append(rows)
        table = np.zeros((3, 50), np.float32)
        table[:, rows] = 1.0  # the table names the rows that it knows
        return table

    positions = np.array([2, 5, 9])
    targets = soft_labels(positions, infer, n_labeled, folds)
    soft, held_out = targets.soft, targets.held_out
    assert soft.probabilities[0].sum() == n_labeled
    for held in held_out:
        known = np.flatnonzero(held.probabilities[0])
        assert np.array_equal(np.sort(np.concatenate([known, held.rows])), np.arange(n_labeled))
        assert len(held.rows) > 0
    if folds >= 2 and n_labeled >= 2:
        assert np.array_equal(np.sort(np.concatenate([h.rows for h in held_out])), np.arange(n_labeled))
        assert len(asked) == 1 + min(folds, n_labeled)
    else:
        assert held_out == ()
        assert len(asked) == 1
