"""No prior: an untrained policy draws nearly uniformly."""

from __future__ import annotations

from psp_ray.config.kinds import PRIORS
from psp_ray.policy.prior import Prior


@PRIORS.register("none", source="method.md, step 2")
class NoPrior(Prior):
    """Nothing is added to the policy's log odds."""
