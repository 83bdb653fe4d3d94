"""Uncertainty sampling by the margin between the two most probable classes."""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition._baseline import DECIMALS, Baseline
from psp_ray.acquisition.base import register
from psp_ray.core.pool import class_embeddings, read_blocks
from psp_ray.core.probability import class_probabilities
from psp_ray.core.records import Int64Array, PoolState
from psp_ray.core.topk import StreamingTopK


@register("margin")
class Margin(Baseline):
    """The samples of smallest `p_i(1) - p_i(2)`, the two largest class probabilities.

    Source: Scheffer, Decomain and Wrobel, "Active hidden Markov models for information extraction" (IDA 2001). With a
    single class every margin is 1. Margins equal to five decimals are ordered by the samples' noise keys. O(n C d)
    time, one block of memory.
    """

    name = "margin"

    def choose(self, state: PoolState) -> Int64Array:
        embeddings = class_embeddings(state.text, self.pool)
        top = StreamingTopK(1, state.n_query)
        for block in read_blocks(self.pool, state.unlabeled):
            p = class_probabilities(block.features, embeddings, state.text.logit_scale)
            margin = np.ones(len(p))
            if p.shape[1] > 1:
                two = np.partition(p, p.shape[1] - 2, axis=1)[:, -2:]
                margin = two[:, 1] - two[:, 0]
            top.offer(-np.round(margin, DECIMALS)[None, :], block.positions, block.keys)
        return top.result()[2]
