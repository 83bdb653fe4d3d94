"""The reward of `psp`: what learning did to the gap."""

from __future__ import annotations

import numpy as np

from psp_ray.config.kinds import REWARDS
from psp_ray.core.records import LearnOutcome
from psp_ray.policy.reward import Worths


@REWARDS.register("closed", source="ours; method.md, step 7")
def closed(outcome: LearnOutcome) -> Worths:
    """The gap that learning closed, the teacher's less the student's: a gain of either sign."""
    return Worths(
        np.asarray(outcome.gap_new_before, np.float64) - outcome.gap_new,
        np.asarray(outcome.gap_pseudo_before, np.float64) - outcome.gap_pseudo,
        gains=True,
    )
