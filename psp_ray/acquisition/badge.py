"""BADGE: a batch that is uncertain and diverse in the space of gradients."""

from __future__ import annotations

from psp_ray.acquisition.base import STRATEGIES
from psp_ray.acquisition.strategy import Strategy, generator
from psp_ray.acquisition.toolkit.distances import Points, gradient_factors, k_means_pp
from psp_ray.core.pool import class_embeddings
from psp_ray.core.records import Int64Array, PoolState


@STRATEGIES.register("badge")
class Badge(Strategy):
    """k-means++ seeding over gradient embeddings `f_i (x) (1[c = yhat_i] - p_ic)`.

    Source: Ash et al., "Deep batch active learning by diverse, uncertain gradient lower bounds" (ICLR 2020), algorithm
    1; the gradient is taken with respect to the class embeddings, as in PCB (Bang et al., CVPR 2024). The embeddings
    have rank one and stay in their factors of d + C numbers a sample instead of d * C. The first sample is the one
    of largest norm, as in the released code (the paper: k-means++, whose first center is uniform).

    O(n n_query (d + C)) time; memory n (d + C) * 4 bytes up to 1 GiB, beyond which factors are made anew.
    """

    name = "badge"

    def choose(self, state: PoolState) -> Int64Array:
        factors = gradient_factors(class_embeddings(state.text, self.pool), state.text.logit_scale)
        points = Points(self.pool, state.unlabeled, factors)
        return state.unlabeled[k_means_pp(points, state.n_query, generator(state, "badge"))]
