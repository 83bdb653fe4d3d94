"""The gap before learning: the student has just fitted the samples that `after` looks at, the teacher hasn't."""

from __future__ import annotations

from psp_ray.config.kinds import REWARDS
from psp_ray.core.records import LearnOutcome
from psp_ray.policy.reward import Worths


@REWARDS.register("before", source="ours; method.md, step 7")
def before(outcome: LearnOutcome) -> Worths:
    """The gap that the teacher had: there was so much to be learned, a gain."""
    return Worths(outcome.gap_new_before, outcome.gap_pseudo_before, gains=True)
