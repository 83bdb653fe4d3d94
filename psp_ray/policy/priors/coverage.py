"""The prior of `psp`: anchors that together cover what is uncertain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.config.kinds import PRIORS
from psp_ray.config.policy import PolicySettings
from psp_ray.core.records import Float64Array, Int64Array, PoolReader, PoolState
from psp_ray.policy.prior import Prior

if TYPE_CHECKING:
    from psp_ray.neighbors.coverage import Coverage


@PRIORS.register("coverage", source="ours; Bae et al., ICLR 2025 (psp_ray.neighbors.coverage)")
class CoveragePrior(Prior):
    """High log odds for a few samples that together show most of what teacher and graph disagree on."""

    def __init__(self, pool: PoolReader, settings: PolicySettings) -> None:
        super().__init__(pool, settings)
        self._coverage: Coverage | None = None

    def anchors(self, state: PoolState) -> tuple[Int64Array, Float64Array]:
        if self._coverage is None:
            from psp_ray.neighbors.coverage import Coverage

            self._coverage = Coverage(self.pool, self.settings)
        return self._coverage.plan(state)
