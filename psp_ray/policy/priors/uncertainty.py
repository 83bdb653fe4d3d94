"""Priors by what the prompt itself is unsure of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.config.kinds import PRIORS
from psp_ray.core.records import Float64Array
from psp_ray.policy.prior import Prior

if TYPE_CHECKING:
    from torch import Tensor


@PRIORS.register("entropy", source="ours; Settles 2009, section 3.1")
class Entropy(Prior):
    """`prior_weight` log odds for each standard deviation of the predictive entropy."""

    uses_uncertainty = True

    def log_odds(self, uncertainty: Tensor) -> Float64Array:
        odds: Float64Array = self.settings.prior_weight * uncertainty[:, 4].cpu().double().numpy()
        return odds


@PRIORS.register("margin", source="ours; Scheffer, Decomain and Wrobel, IDA 2001")
class Margin(Prior):
    """`prior_weight` log odds for each standard deviation by which the margin of the two likeliest classes is small."""

    uses_uncertainty = True

    def log_odds(self, uncertainty: Tensor) -> Float64Array:
        odds: Float64Array = -self.settings.prior_weight * uncertainty[:, 3].cpu().double().numpy()
        return odds
