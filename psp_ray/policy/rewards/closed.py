"""The reward of `psp`: what learning left of the gap."""

from __future__ import annotations

import numpy as np

from psp_ray.config.kinds import REWARDS
from psp_ray.core.records import LearnOutcome
from psp_ray.policy.reward import Gaps


@REWARDS.register("closed", source="ours; method.md, step 7")
def closed(outcome: LearnOutcome) -> Gaps:
    """Gap of the student less the teacher's: negative where learning closed it."""
    return Gaps(
        np.asarray(outcome.gap_new, np.float64) - outcome.gap_new_before,
        np.asarray(outcome.gap_pseudo, np.float64) - outcome.gap_pseudo_before,
    )
