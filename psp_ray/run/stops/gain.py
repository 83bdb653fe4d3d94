"""A label brings too little."""

from __future__ import annotations

from typing import ClassVar

from psp_ray.config.kinds import STOPS
from psp_ray.run.stops._base import Evidence, Stop


@STOPS.register("gain")
class Gain(Stop):
    """The expected gain of a label, in points of accuracy, falls below the threshold.

    Source: ours.
    """

    example: ClassVar[float] = 0.05

    def reason(self, evidence: Evidence) -> str:
        if evidence.expectation is None:
            return ""
        points = 100 * evidence.expectation.gain / max(evidence.labels_per_round, 1)
        return f"a label is expected to bring {points:.3f} points of accuracy" * (points < self.threshold)
