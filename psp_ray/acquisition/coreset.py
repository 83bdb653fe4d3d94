"""Core-set: cover the pool, greedily."""

from __future__ import annotations

from psp_ray.acquisition.base import STRATEGIES
from psp_ray.acquisition.strategy import Strategy, generator
from psp_ray.acquisition.toolkit.distances import Points, gradient_factors, k_center
from psp_ray.config.acquisition import CoresetSettings
from psp_ray.core.pool import class_embeddings
from psp_ray.core.records import Int64Array, PoolState


@STRATEGIES.register("coreset")
class Coreset(Strategy):
    """Greedy k-center: each sample is the one farthest from all that is labeled and from those chosen before.

    Source: Sener and Savarese, "Active learning for convolutional neural networks: a core-set approach" (ICLR 2018),
    algorithm 1, with Euclidean distances of normalized image features. Without the paper's mixed-integer refinement,
    as in later comparisons. With a frozen image tower the space never changes, so that nothing is learned from the
    prompt; `coreset_space gradients` covers the gradient embeddings instead. Without labels the first sample is drawn
    uniformly. Ties go to the lower position.

    O(n (n_query + labeled) d) time; memory n d * 4 bytes up to 1 GiB, beyond which blocks are read anew.
    """

    name = "coreset"
    settings_class = CoresetSettings
    settings: CoresetSettings

    def choose(self, state: PoolState) -> Int64Array:
        if self.settings.coreset_space == "gradients":
            factors = gradient_factors(class_embeddings(state.text, self.pool), state.text.logit_scale)
            points = Points(self.pool, state.unlabeled, factors)
        else:
            points = Points(self.pool, state.unlabeled, lambda features: (features,))
        return state.unlabeled[k_center(points, state.n_query, state.labeled, generator(state, "coreset"))]
