"""PCoreSet: cover the space of class probabilities."""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition.base import STRATEGIES
from psp_ray.acquisition.strategy import Strategy, generator
from psp_ray.acquisition.toolkit.distances import Points, k_center
from psp_ray.core.pool import class_embeddings
from psp_ray.core.probability import class_probabilities
from psp_ray.core.records import Int64Array, PoolState


@STRATEGIES.register("pcoreset")
class PCoreset(Strategy):
    """Greedy k-center over the class probabilities `p_i = softmax(logit_scale * f_i . T)` with Euclidean distances.

    Labeled samples are centers where the model puts them, not at their labels.

    Source: Kang et al., "PCoreSet: effective active learning through knowledge distillation from vision-language
    models" (arXiv 2506.00910), section 4, and its released code. Differs: there the probabilities are the mean of two
    heads of a student network, one learned from the labels and one distilled from the vision-language model; here
    they are the learned prompt's. There the first labels are given, as many for each class; here the rule
    applies from the start, to the zero-shot probabilities, and the first sample is drawn uniformly. Ties go to the
    lower position.

    O(n (n_query + labeled) C + n C d) time; memory n C * 4 bytes up to 1 GiB.
    """

    name = "pcoreset"

    def choose(self, state: PoolState) -> Int64Array:
        embeddings = class_embeddings(state.text, self.pool)
        points = Points(
            self.pool,
            state.unlabeled,
            lambda features: (class_probabilities(features, embeddings, state.text.logit_scale).astype(np.float32),),
        )
        return state.unlabeled[k_center(points, state.n_query, state.labeled, generator(state, "pcoreset"))]
