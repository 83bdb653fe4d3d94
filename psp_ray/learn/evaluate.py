"""Accuracy of a prompt on frozen features, block by block. numpy only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.probability import softmax
from psp_ray.core.records import BLOCK_SIZE, Evaluation, FeatureBlock, Float32Array, TextState


def similarities(text: TextState, features: NDArray[Any]) -> Float32Array:
    """`cos_ic = f_i . T_c`: features (n, d) of any float type -> (n, C) float32."""
    return np.asarray(features, np.float32) @ text.features.T


def predict_proba(text: TextState, features: NDArray[Any]) -> Float32Array:
    """Class probabilities `softmax(logit_scale * cos)`: features (n, d) -> (n, C) float32."""
    return softmax(np.float32(text.logit_scale) * similarities(text, features))


def evaluate(text: TextState, blocks: Iterable[FeatureBlock | NDArray[Any]], labels: NDArray[Any]) -> Evaluation:
    """Accuracy over a stream of features.

    Args:
        text: the prompt.
        blocks: features in the order of the labels, as `FeatureBlock`s or (m, d) arrays of any length.
        labels: (n,) true classes.

    Returns:
        Overall accuracy, and the mean of the accuracies of the classes that occur (balanced accuracy).

    Raises:
        ValueError: more or fewer features than labels, or none.
    """
    labels = np.asarray(labels)
    n_classes = text.features.shape[0]
    hits, totals = np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64)
    done = 0
    for block in blocks:
        features = block.features if isinstance(block, FeatureBlock) else block
        for start in range(0, len(features), BLOCK_SIZE):
            part = features[start : start + BLOCK_SIZE]
            truth = labels[done : done + len(part)]
            if len(truth) < len(part):
                raise ValueError(f"more features than the {len(labels)} labels")
            guess = similarities(text, part).argmax(axis=1)
            totals += np.bincount(truth, minlength=n_classes)
            hits += np.bincount(truth[guess == truth], minlength=n_classes)
            done += len(part)
    if done != len(labels) or done == 0:
        raise ValueError(f"{done} features for {len(labels)} labels")
    occurring = totals > 0
    return Evaluation(
        accuracy=float(hits.sum() / done),
        macro_accuracy=float((hits[occurring] / totals[occurring]).mean()),
        n=done,
    )
