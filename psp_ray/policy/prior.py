"""What a prior is: log odds that are added to the policy's, before it has learned anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psp_ray.config.policy import PolicySettings
from psp_ray.core.records import Float64Array, Int64Array, PoolReader, PoolState

if TYPE_CHECKING:
    from torch import Tensor


class Prior:
    """Base of priors, one file each in `psp_ray.policy.priors`, known by `PRIORS.register(name)`.

    A prior speaks by `anchors` (some samples, chosen with the whole pool in view) or by `log_odds` (each sample by
    itself, from how uncertain the prompt is of it), or by both, which then add up. This one says nothing.
    """

    uses_uncertainty = False
    """Whether `log_odds` says anything."""

    def __init__(self, pool: PoolReader, settings: PolicySettings) -> None:
        self.pool, self.settings = pool, settings

    def anchors(self, state: PoolState) -> tuple[Int64Array, Float64Array]:
        """Sorted positions (k,) among the unlabeled, and their log odds (k,): a function of the state alone."""
        return np.zeros(0, np.int64), np.zeros(0, np.float64)

    def log_odds(self, uncertainty: Tensor) -> Float64Array:
        """Log odds (m,) from `psp_ray.policy.state.uncertainty_features`, standardized over the pool, (m, 5)."""
        return np.zeros(len(uncertainty))
