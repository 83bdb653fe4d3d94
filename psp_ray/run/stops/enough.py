"""Little more is to be gained."""

from __future__ import annotations

from typing import ClassVar

from psp_ray.config.kinds import STOPS
from psp_ray.run.stopping import HORIZON
from psp_ray.run.stops._base import Evidence, Stop


@STOPS.register("enough")
class Enough(Stop):
    """The next four rounds together are expected to bring less than the threshold, in points of accuracy.

    Source: ours. The line after a round says "enough" by the same rule.
    """

    default: ClassVar[float | None] = 1.0
    example: ClassVar[float] = 1.0

    def reason(self, evidence: Evidence) -> str:
        if evidence.expectation is None or not 100 * evidence.expectation.later < self.threshold:
            return ""
        return f"{HORIZON} more rounds are expected to bring {100 * evidence.expectation.later:.1f} points together"
