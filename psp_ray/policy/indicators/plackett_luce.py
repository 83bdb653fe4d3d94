"""The probability of the draw as it was made."""

from __future__ import annotations

import numpy as np

from psp_ray.config.kinds import INDICATORS
from psp_ray.core.records import Float64Array
from psp_ray.policy.indicator import Indicator


@INDICATORS.register("plackett-luce", source="ours; Plackett, Applied Statistics 1975")
class PlackettLuce(Indicator):
    """Log-probability of drawing these samples in this order without replacement."""

    def of(self, log_prob: Float64Array) -> float:
        log_prob = np.asarray(log_prob, np.float64)
        taken = np.concatenate([[0.0], np.cumsum(np.exp(log_prob))[:-1]])
        # The last samples of a fully drawn pool leave 1 - taken at rounding noise: no less than the sample itself.
        left = np.maximum(1.0 - taken, np.exp(log_prob))
        return float(np.sum(log_prob - np.log(left)))

    def uniform(self, n: int, n_query: int) -> float:
        return float(-np.sum(np.log(n - np.arange(n_query))))
