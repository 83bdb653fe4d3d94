"""Uncertainty sampling by the margin between the two most probable classes."""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition.base import STRATEGIES
from psp_ray.acquisition.strategy import Strategy
from psp_ray.core.pool import Block
from psp_ray.core.probability import class_probabilities
from psp_ray.core.records import Float64Array, PoolState


@STRATEGIES.register("margin")
class Margin(Strategy):
    """The samples of smallest `p_i(1) - p_i(2)`, the two largest class probabilities.

    Source: Scheffer, Decomain and Wrobel, "Active hidden Markov models for information extraction" (IDA 2001). With a
    single class every margin is 1. Margins equal to five decimals are ordered by the samples' noise keys. O(n C d)
    time, one block of memory.
    """

    name = "margin"

    def score(self, block: Block, state: PoolState) -> Float64Array:
        p = class_probabilities(block.features, state.text.features, state.text.logit_scale)
        if p.shape[1] == 1:
            return -np.ones(len(p))
        two = np.partition(p, p.shape[1] - 2, axis=1)[:, -2:]
        return np.asarray(two[:, 0] - two[:, 1])
