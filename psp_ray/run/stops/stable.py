"""Predictions no longer change."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from psp_ray.config.kinds import STOPS
from psp_ray.run.stopping import WINDOW
from psp_ray.run.stops._base import Evidence, Stop


@STOPS.register("stable")
class Stable(Stop):
    """Cohen's kappa between predictions before and after a round, over three rounds, reaches the threshold.

    Source: Bloodgood and Vijay-Shanker, "A method for stopping active learning based on stabilizing predictions" (CoNLL
    2009), whose threshold is 0.99.
    """

    default: ClassVar[float | None] = 0.99
    most: ClassVar[float] = 1.0

    def reason(self, evidence: Evidence) -> str:
        if len(evidence.agreements) < WINDOW:
            return ""
        kappa = float(np.mean(evidence.agreements[-WINDOW:]))
        return f"predictions are stable (kappa {kappa:.3f} over the last {WINDOW} rounds)" * (kappa >= self.threshold)
