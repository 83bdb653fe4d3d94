"""Uncertainty sampling by predictive entropy."""

from __future__ import annotations

from psp_ray.acquisition.base import STRATEGIES
from psp_ray.acquisition.strategy import Strategy
from psp_ray.core.pool import Block
from psp_ray.core.probability import class_probabilities, entropies
from psp_ray.core.records import Float64Array, PoolState


@STRATEGIES.register("entropy")
class Entropy(Strategy):
    """The samples of largest `H(p_i) = -sum_c p_ic log p_ic`, `p_i = softmax(logit_scale * f_i . T)`.

    Source: Settles, "Active learning literature survey" (2009), section 3.1; as a baseline of prompt learning in Bang
    et al., "Active prompt learning in vision language models" (CVPR 2024). Entropies equal to five decimals are
    ordered by the samples' noise keys. O(n C d) time, one block of memory.
    """

    name = "entropy"

    def score(self, block: Block, state: PoolState) -> Float64Array:
        return entropies(class_probabilities(block.features, state.text.features, state.text.logit_scale))
