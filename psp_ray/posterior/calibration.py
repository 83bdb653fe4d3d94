"""Probabilities that mean what they say: one temperature (Guo et al., ICML 2017), from labels the prompts never saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from psp_ray.core.probability import softmax
from psp_ray.core.records import Float64Array, Int32Array

PRIOR_SPREAD = 0.7
"""Standard deviation of log T before any label: a handful of labels must not turn every probability into 1 or 1/C."""
RANGE = (0.05, 20.0)
BINS = 10


@dataclass(frozen=True)
class Calibration:
    """`temperature`: logits are divided by it. `ece_before`, `ece_after`: expected calibration error over
    `BINS` bins of equal width, weighted like the sample; `n` labels it is based on."""

    temperature: float
    ece_before: float
    ece_after: float
    n: int


def fit_temperature(logits: NDArray[Any], labels: Int32Array, weights: Float64Array) -> float:
    """The temperature of smallest weighted cross-entropy plus a weak prior around 1.

    Args:
        logits: (n, C) of images that were not learned from.
        labels: (n,) their classes.
        weights: (n,) non-negative; scaled so that they sum to the effective sample size.

    Returns:
        T > 0; exactly 1 for an empty sample.
    """
    total = float(np.sum(weights))
    if total <= 0:
        return 1.0
    logits = np.asarray(logits, np.float64)
    weights = np.asarray(weights, np.float64) * (total / float(np.sum(np.square(weights))))
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        top = scaled.max(axis=1)
        log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        return float((weights * (log_sum - scaled[rows, labels])).sum() + 0.5 * (log_t / PRIOR_SPREAD) ** 2)

    found = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


@dataclass(frozen=True)
class Reliability:
    """One row per non-empty bin: mean confidence, accuracy, and the share of the weight that lies in it."""

    confidence: Float64Array
    accuracy: Float64Array
    share: Float64Array
    count: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error: mean distance of accuracy and confidence."""
        return float((self.share * np.abs(self.accuracy - self.confidence)).sum())


def reliability(confidence: Float64Array, correct: Float64Array, weights: Float64Array | None = None) -> Reliability:
    """A reliability diagram: `confidence` (n,) in 0..1, `correct` (n,) 0 or 1, `weights` (n,) or all alike."""
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    weights = np.ones(len(confidence)) if weights is None else np.asarray(weights, np.float64)
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    mass = np.bincount(place, weights, BINS)
    full = mass > 0
    return Reliability(
        np.bincount(place, weights * confidence, BINS)[full] / mass[full],
        np.bincount(place, weights * correct, BINS)[full] / mass[full],
        mass[full] / max(mass.sum(), 1e-300),
        np.bincount(place, minlength=BINS)[full],
    )


def calibrate(logits: NDArray[Any], labels: Int32Array, weights: Float64Array) -> Calibration:
    """Fit the temperature and say what it changes."""
    keep = np.asarray(weights) > 0
    logits, labels, weights = np.asarray(logits, np.float64)[keep], np.asarray(labels)[keep], np.asarray(weights)[keep]
    temperature = fit_temperature(logits, labels, weights)
    if not len(labels):
        return Calibration(temperature, float("nan"), float("nan"), 0)
    right = (logits.argmax(axis=1) == labels).astype(np.float64)
    before, after = (reliability(softmax(logits / t).max(axis=1), right, weights).ece for t in (1.0, temperature))
    return Calibration(temperature, before, after, len(labels))
