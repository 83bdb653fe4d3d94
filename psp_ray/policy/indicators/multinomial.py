"""The note's indicator."""

from __future__ import annotations

import numpy as np
import scipy

from psp_ray.config.kinds import INDICATORS
from psp_ray.core.records import Float64Array
from psp_ray.policy.indicator import Indicator, multinomial


@INDICATORS.register("multinomial", source="method.md, step 4")
class Multinomial(Indicator):
    """Log of the multinomial pmf at the drawn set."""

    def of(self, log_prob: Float64Array) -> float:
        return multinomial(log_prob)

    def uniform(self, n: int, n_query: int) -> float:
        return float(scipy.special.gammaln(n_query + 1) - n_query * np.log(n))
