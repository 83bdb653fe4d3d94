"""The MS indicator: how well a query set matches the policy that drew it (method.md, step 4)."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

from psp_ray.core.records import Float64Array


def multinomial(log_prob: Float64Array) -> float:
    """`log n_s! + sum_i log a_i` at distinct samples: the note's `log p_m(g)` with every g_i 0 or 1; always <= 0.

    `log_prob` (n_s,): log selection probabilities of the drawn samples. It is a multinomial pmf, not the probability
    of a draw without replacement; see `plackett_luce` for that.
    """
    log_prob = np.asarray(log_prob, np.float64)
    return float(gammaln(len(log_prob) + 1) + np.sum(log_prob))


def plackett_luce(log_prob: Float64Array) -> float:
    """Log-probability of drawing these samples in this order without replacement; `log_prob` (n_s,) in draw order."""
    log_prob = np.asarray(log_prob, np.float64)
    taken = np.concatenate([[0.0], np.cumsum(np.exp(log_prob))[:-1]])
    # The last samples of a fully drawn pool leave 1 - taken at rounding noise: no less than the sample itself.
    left = np.maximum(1.0 - taken, np.exp(log_prob))
    return float(np.sum(log_prob - np.log(left)))


def uniform(n: int, n_query: int, kind: str = "multinomial") -> float:
    """The indicator (`multinomial` or `plackett-luce`) of any `n_query` of `n` samples under uniform selection."""
    if kind == "plackett-luce":
        return float(-np.sum(np.log(n - np.arange(n_query))))
    return float(gammaln(n_query + 1) - n_query * np.log(n))
