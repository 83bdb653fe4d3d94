"""The MS indicator: how well a query set matches the policy that drew it (method.md, step 4)."""

from __future__ import annotations

import numpy as np
import scipy

from psp_ray.core.records import Float64Array


class Indicator:
    """Base of indicators, one file each in `psp_ray.policy.indicators`, known by `INDICATORS.register(name)`."""

    def of(self, log_prob: Float64Array) -> float:
        """The indicator, <= 0, of samples whose log selection probabilities are `log_prob` (n_s,), in draw order."""
        raise NotImplementedError

    def uniform(self, n: int, n_query: int) -> float:
        """The indicator of any `n_query` of `n` samples under uniform selection: the scale of `of`."""
        raise NotImplementedError


def multinomial(log_prob: Float64Array) -> float:
    """`log n_s! + sum_i log a_i` at distinct samples: the note's `log p_m(g)` with every g_i 0 or 1; always <= 0.

    `log_prob` (n_s,): log selection probabilities of the drawn samples. It is a multinomial pmf, not the probability
    of a draw without replacement; the indicator `plackett-luce` is that.
    """
    log_prob = np.asarray(log_prob, np.float64)
    return float(scipy.special.gammaln(len(log_prob) + 1) + np.sum(log_prob))
