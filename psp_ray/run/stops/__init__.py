"""Stopping rules, one file each: when a run has labels enough. A new one is a new file here.

    @STOPS.register("stable", source="Bloodgood and Vijay-Shanker, CoNLL 2009")
    class Stable(Stop):
        def reason(self, evidence: Evidence) -> str: ...

`--stop NAME[:THRESHOLD]` asks for one of them, or for several with commas.
"""

from __future__ import annotations

from psp_ray.config.kinds import STOPS
from psp_ray.run.stops._base import Evidence, Stop

__all__ = ["STOPS", "Evidence", "Stop"]
