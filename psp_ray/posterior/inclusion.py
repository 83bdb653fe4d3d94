"""How likely the samples of a Gumbel-top-k draw were to be in it, for inverse-probability weights.

Given the (k+1)-th perturbed key of a draw of k, each sample is in it by an independent event of known probability:
priority sampling (Duffield, Lund and Thorup, JACM 2007; Kool, van Hoof and Welling, ICML 2019). The accuracy estimates
don't use them: a policy that knows where to look gives nearly all samples a probability near 0, and what it then draws
by luck weighs as much as the pool. See `psp_ray.posterior.audit`.
"""

from __future__ import annotations

import numpy as np

from psp_ray.core.records import Float64Array


def inclusion_probabilities(log_prob: Float64Array, next_key: float) -> Float64Array:
    """`q_i = 1 - exp(-a_i e^-k)` (m,): how likely each drawn sample was, given the (n_s+1)-th key k.

    `log_prob` (m,) = log a_i. All 1 where `next_key` is NaN because the whole pool was drawn. Plain top-k and other
    draws without noise have no such probabilities: don't call this for them.
    """
    log_prob = np.asarray(log_prob, np.float64)
    if np.isnan(next_key):
        return np.ones_like(log_prob)
    with np.errstate(over="ignore"):
        q: Float64Array = -np.expm1(-np.exp(log_prob - next_key))
    return q
