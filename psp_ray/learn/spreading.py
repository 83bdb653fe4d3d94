"""Label spreading over labeled and unlabeled samples, by scikit-learn: what a graph of its own kind would say."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.errors import ConfigError
from psp_ray.core.records import Float32Array, Float64Array

UNLABELED = -1


def spread_labels(
    features: Float32Array, labels: NDArray[Any], n_classes: int, *, neighbors: int = 7, alpha: float = 0.2
) -> Float64Array:
    """Class probabilities (n, C) of all samples, by scikit-learn's `LabelSpreading` with its own defaults.

    Source: Zhou et al., "Learning with local and global consistency" (NIPS 2003), on a graph of nearest neighbors.
    A sample that no label reaches has equal probabilities for all classes. Labeled samples keep `1 - alpha` of their
    labels. Memory: n * neighbors and n * C numbers.

    Args:
        features: (n, d) unit features.
        labels: (n,) classes, `UNLABELED` where there is none.
        n_classes: C; classes that no sample has get probability 0.

    Raises:
        ConfigError: no sample has a label.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.semi_supervised import LabelSpreading

    labels = np.asarray(labels, np.int64)
    if not (labels != UNLABELED).any():
        raise ConfigError("label spreading has nothing to spread: no labels; raise labels_per_round")
    neighbors = min(neighbors, len(labels))
    model = LabelSpreading(kernel="knn", n_neighbors=neighbors, alpha=alpha, max_iter=100)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0 where no label comes
        found = np.asarray(model.fit(np.asarray(features, np.float64), labels).label_distributions_, np.float64)
    result = np.zeros((len(labels), n_classes))
    result[:, model.classes_] = found
    lost = ~np.isfinite(result).all(axis=1) | (result.sum(axis=1) <= 0)
    result[lost] = 1.0 / n_classes
    return np.asarray(result / result.sum(axis=1, keepdims=True), np.float64)
