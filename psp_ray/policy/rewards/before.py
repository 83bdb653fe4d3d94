"""The gap before learning: the student has just fitted the samples that `after` looks at, the teacher hasn't."""

from __future__ import annotations

from psp_ray.config.kinds import REWARDS
from psp_ray.core.records import LearnOutcome
from psp_ray.policy.reward import Gaps


@REWARDS.register("before", source="ours; method.md, step 7")
def before(outcome: LearnOutcome) -> Gaps:
    """Gap of the teacher before learning."""
    return Gaps(outcome.gap_new_before, outcome.gap_pseudo_before)
