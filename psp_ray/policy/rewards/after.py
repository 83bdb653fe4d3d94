"""The note's reward: the gap that the student leaves."""

from __future__ import annotations

from psp_ray.config.kinds import REWARDS
from psp_ray.core.records import LearnOutcome
from psp_ray.policy.reward import Gaps


@REWARDS.register("after", source="method.md, step 7")
def after(outcome: LearnOutcome) -> Gaps:
    """Gap of the student after learning."""
    return Gaps(outcome.gap_new, outcome.gap_pseudo)
