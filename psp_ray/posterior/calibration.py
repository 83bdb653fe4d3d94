"""Probabilities that mean what they say: one temperature (Guo et al., ICML 2017), from labels nothing has learned from.

Two kinds of logits are to be had: those of cross-fitting, in the audit stratum, of a classifier like the one that is
calibrated, and on a fair sample of the pool; and those of each round's query set to the classifier of its time. The
second are more, but they are what a strategy chose: where it asks for what is hard, they make a classifier out to know
nothing (T = 16 where 2 is right). They count only where there is no audit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from psp_ray.core.probability import softmax
from psp_ray.core.records import Float64Array, Int32Array
from psp_ray.core.words import counted
from psp_ray.posterior.audit import Answers

PRIOR_SPREAD = 0.7
"""Standard deviation of log T before any label: a handful of labels must not turn every probability into 1 or 1/C."""
ENOUGH = 50
"""Labels of the latest rounds that are looked at where there is no audit, and there are so many."""
FEWEST = 20
"""Labels from which a temperature is called a measurement: of fewer, chance decides as much as the classifier does."""
RANGE = (0.05, 20.0)
BINS = 10


@dataclass(frozen=True)
class Calibration:
    """`temperature`: logits are divided by it. `ece_before`, `ece_after`: expected calibration error over `BINS` bins
    of equal width; `n` labels it is based on."""

    temperature: float
    ece_before: float
    ece_after: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        """The numbers, and `caution`: what must be said wherever probabilities are shown, or None."""
        return {**asdict(self), "caution": caution(self.n) or None}


def caution(n: int) -> str:
    """What must be said wherever probabilities are shown that `n` labels calibrated; empty where they are enough."""
    if n >= FEWEST:
        return ""
    if not n:
        return "probabilities are not calibrated: no label was at hand that the classifier hadn't seen"
    labels = counted(n, "label")
    return f"probabilities are calibrated by {labels} alone (fewer than {FEWEST}): take them for a guess"


@dataclass(frozen=True)
class Unseen:
    """`logits` (k, C) to classifiers that had not learned from the `labels` (k,)."""

    logits: Float64Array
    labels: Int32Array


def unseen_logits(answers: Answers, judged: Float64Array) -> Unseen:
    """What there is to calibrate with: the audit's labels, or, without any, those of the latest rounds.

    Args:
        answers: all that was asked, with the logits of the classifiers of the time.
        judged: (m, C) logits from cross-fitting, NaN where there are none; may be shorter.
    """
    classed = (answers.answers >= 0) & (answers.asked_in > 0)
    crossed = np.flatnonzero(np.isfinite(judged).all(axis=1) & classed[: len(judged)])
    if len(crossed):
        return Unseen(np.asarray(judged, np.float64)[crossed], answers.answers[crossed])
    usable = classed & np.isfinite(answers.logits).all(axis=1)
    by_chance = usable & answers.by_chance
    usable = by_chance if by_chance.any() else usable
    oldest = int(answers.asked_in.max(initial=0))
    while oldest > 1 and (usable & (answers.asked_in >= oldest)).sum() < ENOUGH:
        oldest -= 1
    keep = usable & (answers.asked_in >= oldest)
    return Unseen(np.asarray(answers.logits[keep], np.float64), answers.answers[keep])


def fit_temperature(logits: NDArray[Any], labels: Int32Array) -> float:
    """The temperature of smallest cross-entropy plus a weak prior around 1.

    Args:
        logits: (n, C) of images that were not learned from.
        labels: (n,) their classes.

    Returns:
        T > 0; exactly 1 for an empty sample.
    """
    if not len(labels):
        return 1.0
    logits = np.asarray(logits, np.float64)
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        top = scaled.max(axis=1)
        log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        return float((log_sum - scaled[rows, labels]).sum() + 0.5 * (log_t / PRIOR_SPREAD) ** 2)

    found = scipy.optimize.minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded", options={"xatol": 1e-6})
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


def calibrate(unseen: Unseen) -> Calibration:
    """Fit the temperature and say what it changes."""
    logits, labels = unseen.logits, unseen.labels
    temperature = fit_temperature(logits, labels)
    if not len(labels):
        return Calibration(temperature, float("nan"), float("nan"), 0)
    right = (logits.argmax(axis=1) == labels).astype(np.float64)
    before, after = (reliability(softmax(logits / t).max(axis=1), right).ece for t in (1.0, temperature))
    return Calibration(temperature, before, after, len(labels))
