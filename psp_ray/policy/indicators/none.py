"""No indicator: every draw counts alike."""

from __future__ import annotations

from psp_ray.config.kinds import INDICATORS
from psp_ray.core.records import Float64Array
from psp_ray.policy.indicator import Indicator


@INDICATORS.register("none", source="method.md, step 7: the ablation psp-no-ms")
class NoIndicator(Indicator):
    """-1 for every draw."""

    def of(self, log_prob: Float64Array) -> float:
        return -1.0

    def uniform(self, n: int, n_query: int) -> float:
        return -1.0
