"""The accuracy that was asked for is reached."""

from __future__ import annotations

from typing import ClassVar

from psp_ray.config.kinds import STOPS
from psp_ray.run.stops._base import Evidence, Stop


@STOPS.register("target")
class Target(Stop):
    """The lower limit of the estimated accuracy, 0..1, reaches the threshold.

    Source: ours.
    """

    most: ClassVar[float] = 1.0

    def reason(self, evidence: Evidence) -> str:
        if evidence.accuracy_low is None or evidence.accuracy_low < self.threshold:
            return ""
        return f"the pool's accuracy is at least {100 * evidence.accuracy_low:.1f} % by the last draws"
