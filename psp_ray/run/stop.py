"""`--stop` in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from psp_ray.config.kinds import STOPS
from psp_ray.core.errors import ConfigError
from psp_ray.run.stops import Evidence, Stop


def parse_stop(text: str | None) -> list[Stop]:
    """`stable`, `stable:0.98`, `gain:0.05`, `target:0.9`, or several with commas: the first that is met ends the run.

    Raises:
        ConfigError: an unknown rule, or a threshold that is missing or out of range.
    """
    found = []
    for part in ("" if (text or "").strip() == "none" else text or "").split(","):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if not name:
            continue
        rule = STOPS.find(name)
        try:
            threshold = float(value) if value else rule.default
        except ValueError:
            threshold = math.nan
        if threshold is None:
            raise ConfigError(f"--stop {text}: {name} needs a number, as in {name}:{rule.example}")
        if not 0 < threshold <= rule.most:
            most = "more than 0" if rule.most == math.inf else f"in 0..{rule.most:g} ({rule.example} is 90 %)"
            raise ConfigError(f"--stop {text}: the number of {name} must be {most}")
        found.append(rule(threshold))
    return found


def reason_to_stop(rules: Sequence[Stop], evidence: Evidence) -> str:
    """Why the run should end now by the first rule that is met, or an empty string."""
    return next((reason for rule in rules if (reason := rule.reason(evidence))), "")
