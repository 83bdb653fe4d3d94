"""The note's reward: the gap that the student leaves."""

from __future__ import annotations

from psp_ray.config.kinds import REWARDS
from psp_ray.core.records import LearnOutcome
from psp_ray.policy.reward import Worths


@REWARDS.register("after", source="method.md, step 7")
def after(outcome: LearnOutcome) -> Worths:
    """The gap that the student leaves: a loss."""
    return Worths(outcome.gap_new, outcome.gap_pseudo)
