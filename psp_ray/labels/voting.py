"""Several annotators' votes made into one label: majority vote and Dawid-Skene.

Dawid and Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm", Applied Statistics 28
(1979): the true class of each image is latent, each annotator has a confusion matrix, EM fits both. The library
crowd-kit has it too (tests compare with it) but brings the whole of transformers with it, too much for one loop.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.records import Float64Array, Int32Array, Int64Array

AGGREGATIONS = ("majority", "dawid-skene")


def majority(items: Int64Array, votes: Int32Array, n_items: int, n_classes: int) -> Int32Array:
    """The most frequent class of each item; ties go to the lower class.

    Args:
        items: (v,) item of each vote, 0..n_items-1. votes: (v,) class of each vote.

    Returns:
        (n_items,) int32; class 0 for an item without votes.
    """
    best: Int32Array = _counts(items, votes, n_items, n_classes).argmax(axis=1).astype(np.int32)
    return best


def dawid_skene(
    items: Int64Array,
    annotators: Int64Array,
    votes: Int32Array,
    n_items: int,
    n_annotators: int,
    n_classes: int,
    *,
    n_iter: int = 100,
    tolerance: float = 1e-6,
    smoothing: float = 0.01,
) -> tuple[Int32Array, Float64Array, Float64Array]:
    """EM of Dawid and Skene, begun at the shares of votes.

    Args:
        items, annotators, votes: (v,) what annotator `annotators[i]` said about item `items[i]`.
        n_iter: most EM steps; fewer where no probability moves by more than `tolerance`.
        smoothing: pseudo-count of each cell of the confusion matrices, so that no answer is impossible.

    Returns:
        (labels (n_items,) int32, probabilities (n_items, C), confusion (n_annotators, C, C): rows are true classes).
    """
    counts = _counts(items, votes, n_items, n_classes)
    truth = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    truth[counts.sum(axis=1) == 0] = 1.0 / n_classes
    confusion = np.empty((n_annotators, n_classes, n_classes))
    for _ in range(n_iter):
        prior = truth.mean(axis=0)
        confusion[:] = smoothing
        np.add.at(confusion.transpose(0, 2, 1), (annotators, votes), truth[items])
        confusion /= confusion.sum(axis=2, keepdims=True)
        with np.errstate(divide="ignore"):
            evidence = np.tile(np.log(prior), (n_items, 1))
            np.add.at(evidence, items, np.log(confusion)[annotators, :, votes])
        evidence -= evidence.max(axis=1, keepdims=True)
        new = np.exp(evidence)
        new /= new.sum(axis=1, keepdims=True)
        moved = float(np.abs(new - truth).max(initial=0.0))
        truth = new
        if moved < tolerance:
            break
    return truth.argmax(axis=1).astype(np.int32), truth, confusion


def _counts(items: Int64Array, votes: Int32Array, n_items: int, n_classes: int) -> NDArray[np.float64]:
    counts = np.zeros((n_items, n_classes))
    np.add.at(counts, (items, votes), 1.0)
    return counts
