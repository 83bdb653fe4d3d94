"""ALFA-Mix: samples whose prediction flips when their feature is mixed a little with labeled ones."""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition.base import STRATEGIES, validate_state
from psp_ray.acquisition.random import Random
from psp_ray.acquisition.strategy import Strategy, generator, unknown_odds
from psp_ray.acquisition.toolkit.clusters import cluster, representatives
from psp_ray.config.acquisition import AlfaMixSettings
from psp_ray.core import noise
from psp_ray.core.pool import class_embeddings, read_blocks, read_rows
from psp_ray.core.probability import class_probabilities
from psp_ray.core.records import Float32Array, Float64Array, Int64Array, PoolState, Proposal


@STRATEGIES.register("alfa-mix")
class AlfaMix(Strategy):
    """Candidates by the closed-form mixing ratio, then a diverse choice among them by k-means.

    Source: Parvaneh et al., "Active learning by feature mixing" (CVPR 2022). A feature z is mixed with the anchor z*_c,
    the mean feature of the labeled samples of class c, as `(1 - alpha) z + alpha z*`, alpha a vector. Its closed form
    is the alpha that raises the loss at the predicted class y most within `|alpha| <= eps / sqrt(d)`; put into the mix
    it is a step of length `eps / sqrt(d) * |z*_c - z|` along the normalized gradient `g = T'(p - e_y) / |...|`. Logits
    are linear in it, so that the step at which the prediction flips is exact,
    `t_i = min_{c: (T_c - T_y) g > 0} (T_y - T_c) z / ((T_c - T_y) g)`, and no mix is ever computed: z is a candidate at
    cap eps if `t_i sqrt(d) / max_c |z*_c - z| <= eps`. The cap grows by 0.2 up to 1 until there are more candidates
    than queries, as in the released code. Of k-means with n_query clusters over the candidates, the sample nearest to
    each center is taken; the rest, if any, is drawn uniformly from the unlabeled.

    Differs: without labels there are no anchors, and the batch is drawn like `random`'s, which is the paper's initial
    set. Classes without labels add no anchor (released code: the mean of all labeled, which changes little).

    O(n C d) time for the candidates, O(m n_query d) for k-means over m of them.
    """

    name = "alfa-mix"
    settings_class = AlfaMixSettings
    settings: AlfaMixSettings

    def propose(self, state: PoolState) -> Proposal:
        """Choose the query set; the first one is random, with known odds."""
        validate_state(state, self.pool)
        if not len(state.labeled):
            return Random(self.pool).propose(state)
        return unknown_odds(self.choose(state))

    def choose(self, state: PoolState) -> Int64Array:
        embeddings = class_embeddings(state.text, self.pool)
        anchors = class_means(read_rows(self.pool, state.labeled), np.asarray(state.labels, np.int64))
        needed = np.concatenate(
            [
                caps(block.features, embeddings, state.text.logit_scale, anchors)
                for block in read_blocks(self.pool, state.unlabeled)
            ]
        )
        candidates = state.unlabeled[self._candidates(needed, state.n_query)]
        chosen = np.zeros(0, np.int64)
        if len(candidates):
            seed = noise.stream_key(state.seed, "alfa-mix", state.round)
            found = cluster(self.pool, candidates, min(state.n_query, len(candidates)), seed)
            chosen = candidates[representatives(found)]
        left = np.setdiff1d(state.unlabeled, chosen, assume_unique=True)
        rest = generator(state, "alfa-mix-rest").permutation(left)[: state.n_query - len(chosen)]
        return np.concatenate([chosen, rest])

    def _candidates(self, needed: Float64Array, n_query: int) -> np.ndarray:
        """Mask (n,) of the samples that flip at the smallest cap with more than `n_query` of them."""
        step = self.settings.alfa_mix_cap
        cap = 0.0
        inside = np.zeros(len(needed), bool)
        while cap < 1.0 and inside.sum() <= n_query:
            cap = min(1.0, cap + step)
            inside = needed <= cap * (1 + 1e-9)
        return inside


def class_means(features: Float32Array, labels: Int64Array) -> Float32Array:
    """Mean feature of every class that occurs, (k, d) in the order of classes; `labels` (m,)."""
    classes, column = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(classes), features.shape[1]))
    np.add.at(sums, column, features.astype(np.float64))
    return (sums / np.bincount(column)[:, None]).astype(np.float32)


def caps(features: Float32Array, embeddings: Float32Array, logit_scale: float, anchors: Float32Array) -> Float64Array:
    """The smallest cap at which each sample's prediction flips, (m,); inf where it never does."""
    p = class_probabilities(features, embeddings, logit_scale)
    cosines = (features @ embeddings.T).astype(np.float64)
    rows = np.arange(len(p))
    predicted = cosines.argmax(axis=1)
    p[rows, predicted] -= 1.0
    gradient = p @ embeddings.astype(np.float64)
    length = np.linalg.norm(gradient, axis=1, keepdims=True)
    np.divide(gradient, length, out=gradient, where=length > 0)
    slopes = gradient @ embeddings.T.astype(np.float64)
    gain = slopes - slopes[rows, predicted][:, None]
    behind = cosines[rows, predicted][:, None] - cosines
    steps = np.full(gain.shape, np.inf)
    np.divide(behind, gain, out=steps, where=gain > 0)
    steps[rows, predicted] = np.inf
    squares = np.einsum("ij,ij->i", features, features, dtype=np.float64)[:, None]
    squares = squares + np.einsum("ij,ij->i", anchors, anchors, dtype=np.float64) - 2.0 * (features @ anchors.T)
    reach = np.sqrt(np.maximum(squares.max(axis=1), 0.0)) / np.sqrt(features.shape[1])
    needed = np.full(len(p), np.inf)
    np.divide(steps.min(axis=1), reach, out=needed, where=reach > 0)
    return needed
