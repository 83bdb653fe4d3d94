"""UHerding: cover the uncertain part of the pool, ever more locally."""

from __future__ import annotations

import numpy as np
import scipy

from psp_ray.acquisition.base import STRATEGIES
from psp_ray.acquisition.strategy import Strategy
from psp_ray.acquisition.toolkit.cover import Cover, gaussian, greedy, read_part
from psp_ray.config.acquisition import UHerdingSettings
from psp_ray.core.pool import class_embeddings, read_rows
from psp_ray.core.probability import class_probabilities, class_scores
from psp_ray.core.records import (
    Feedback,
    Float32Array,
    Float64Array,
    Int64Array,
    Observation,
    PoolReader,
    PoolState,
    StateDict,
)

TEMPERATURES = np.arange(1.0, 20.0, 0.1)


@STRATEGIES.register("uherding")
class UHerding(Strategy):
    """MaxHerding's rule with every sample weighed by its margin uncertainty `1 - (p_1 - p_2)`.

    Source: Bae, Oliveira and Sutherland, "Uncertainty herding: one active learning method for all label budgets" (ICLR
    2025, arXiv 2412.20644), algorithm 1, with both of its adaptations: the kernel's bandwidth is the least distance
    between two labeled samples, and the probabilities are calibrated by a temperature of 1 to 20 that minimizes the
    expected calibration error on held-out labels, in as many bins as classes. Without labels every weight is 1 and the
    bandwidth is MaxHerding's.

    Differs: the paper holds out 30 % of the labels and trains once more without them; here the labels of the last
    round are held out, judged by the prompt under which they were bought, which never saw them. Copies among the
    labeled samples don't make the bandwidth zero. In pools of more than 10,000 unlabeled samples so many are
    drawn to be covered and chosen from (released code: 35,000).

    O(m^2 d) time for m samples up to 10,000, O(labeled^2 d) for the bandwidth. State: the temperature.
    """

    name = "uherding"
    settings_class = UHerdingSettings
    settings: UHerdingSettings

    def __init__(self, pool: PoolReader, settings: UHerdingSettings | None = None) -> None:
        super().__init__(pool, settings)
        self.temperature = 1.0

    def choose(self, state: PoolState) -> Int64Array:
        part = read_part(self.pool, state.unlabeled, state.seed, state.n_query)
        labeled = read_rows(self.pool, state.labeled)
        embeddings = class_embeddings(state.text, self.pool)
        weights = None
        if len(labeled):
            cool = state.text.cooled(self.temperature)
            weights = uncertainty(class_probabilities(part.features, embeddings, cool.logit_scale, cool.bias))
        cover = Cover(part.features, gaussian(self.settings.uherding_bandwidth or bandwidth(labeled)), weights)
        cover.add(labeled)
        return part.positions[greedy(cover, state.n_query, part.keys)]

    def observe(self, feedback: Feedback) -> Observation:
        """Fit the temperature to the labels just bought, under the prompt by which they were chosen."""
        text, rows = feedback.state.text, read_rows(self.pool, feedback.proposal.positions)
        scores = class_scores(rows, class_embeddings(text, self.pool), text.logit_scale, text.bias)
        logits = scores.astype(np.float64) * text.logit_scale
        self.temperature = best_temperature(logits, np.asarray(feedback.labels, np.int64))
        return Observation()

    def state_dict(self) -> StateDict:
        """The temperature."""
        return {"temperature": np.asarray(self.temperature)}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue to the same bits."""
        self.temperature = float(state.get("temperature", np.asarray(1.0)))


def uncertainty(p: Float64Array) -> Float64Array:
    """1 minus the margin between the two most probable classes (m,); 0 where there is only one class."""
    if p.shape[1] < 2:
        return np.zeros(len(p))
    top = np.partition(p, p.shape[1] - 2, axis=1)
    return np.asarray(1.0 - (top[:, -1] - top[:, -2]), np.float64)


def bandwidth(labeled: Float32Array) -> float:
    """The least distance above zero between two of the labeled features (m, d); 1 where there is none."""
    if len(labeled) < 2:
        return 1.0
    distances = scipy.spatial.distance.pdist(labeled.astype(np.float64))
    apart = distances[distances > 1e-3]  # below it lies nothing but the rounding of float16 features
    return float(apart.min()) if len(apart) else 1.0


def best_temperature(logits: Float64Array, labels: Int64Array) -> float:
    """Of 1.0, 1.1, ..., 19.9 the temperature of least calibration error; the lowest of equals. 1 for no labels.

    `logits` (m, C); `labels` (m,).
    """
    if not len(labels):
        return 1.0
    right = logits.argmax(axis=1) == labels
    shifted = logits - logits.max(axis=1, keepdims=True)
    errors = []
    for temperature in TEMPERATURES:
        confidence = 1.0 / np.exp(shifted / temperature).sum(axis=1)
        errors.append(calibration_error(confidence, right, logits.shape[1]))
    return float(TEMPERATURES[int(np.argmin(np.round(errors, 9)))])


def calibration_error(confidence: Float64Array, right: np.ndarray, bins: int) -> float:
    """`sum_b |mean confidence - accuracy| * share` over equal bins (l, r] of [0, 1] (Naeini et al., AAAI 2015)."""
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(index, weights=confidence - right, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))
