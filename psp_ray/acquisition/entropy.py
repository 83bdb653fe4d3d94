"""Uncertainty sampling by predictive entropy."""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition._baseline import DECIMALS, Baseline
from psp_ray.acquisition.base import register
from psp_ray.core.pool import class_embeddings, read_blocks
from psp_ray.core.probability import class_probabilities, entropies
from psp_ray.core.records import Int64Array, PoolState
from psp_ray.core.topk import StreamingTopK


@register("entropy")
class Entropy(Baseline):
    """The samples of largest `H(p_i) = -sum_c p_ic log p_ic`, `p_i = softmax(logit_scale * f_i . T)`.

    Source: Settles, "Active learning literature survey" (2009), section 3.1; as a baseline of prompt learning in Bang
    et al., "Active prompt learning in vision language models" (CVPR 2024). Entropies equal to five decimals are
    ordered by the samples' noise keys. O(n C d) time, one block of memory.
    """

    name = "entropy"

    def choose(self, state: PoolState) -> Int64Array:
        embeddings = class_embeddings(state.text, self.pool)
        top = StreamingTopK(1, state.n_query)
        for block in read_blocks(self.pool, state.unlabeled):
            p = class_probabilities(block.features, embeddings, state.text.logit_scale)
            top.offer(np.round(entropies(p), DECIMALS)[None, :], block.positions, block.keys)
        return top.result()[2]
