"""When to stop labeling, and what one more round is expected to bring. Neither looks at the test set.

- `stable[:KAPPA]`: predictions no longer change. Cohen's kappa between the predictions before and after a round, on a
  fixed part of the pool, averaged over the last three rounds (Bloodgood and Vijay-Shanker, "A method for stopping
  active learning based on stabilizing predictions", CoNLL 2009; their threshold is 0.99).
- `gain:POINTS`: the expected gain per label, in points of accuracy, falls below POINTS. The learning curve is taken as
  an inverse power law `a - b m^-c` of the m labels (Figueroa et al., BMC Med. Inform. Decis. Mak. 2012), fitted to
  the estimates of the pool's accuracy by their precision.
- `target:ACCURACY`: the lower limit of the pool's estimated accuracy, over the last three rounds' draws, reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from psp_ray.core import noise
from psp_ray.core.errors import ConfigError
from psp_ray.core.records import Int64Array
from psp_ray.posterior.accuracy import telling

WINDOW = 3
"""Rounds that a criterion looks at."""
STOP_SET = 2000
"""Images on which predictions are compared (Bloodgood and Vijay-Shanker use as many)."""
DEFAULTS = {"stable": 0.99, "gain": None, "target": None}


@dataclass(frozen=True)
class Criterion:
    """One part of `--stop`: a kind and its threshold."""

    kind: str
    threshold: float


def parse_stop(text: str | None) -> list[Criterion]:
    """`stable`, `stable:0.98`, `gain:0.05`, `target:0.9`, or several with commas: the first that is met ends the run.

    Raises:
        ConfigError: an unknown kind, or a threshold that is missing or out of range.
    """
    found = []
    for part in (text or "").split(","):
        kind, _, value = (piece.strip() for piece in part.partition(":"))
        if not kind:
            continue
        if kind not in DEFAULTS:
            raise ConfigError(f"--stop {text}: {kind!r} is unknown; use stable[:KAPPA], gain:POINTS or target:ACCURACY")
        try:
            threshold = float(value) if value else DEFAULTS[kind]
        except ValueError:
            threshold = math.nan
        if threshold is None:
            raise ConfigError(f"--stop {text}: {kind} needs a number, as in {kind}:{0.05 if kind == 'gain' else 0.9}")
        if not 0 < threshold <= (math.inf if kind == "gain" else 1.0):
            most = "more than 0" if kind == "gain" else "in 0..1 (0.9 is 90 %)"
            raise ConfigError(f"--stop {text}: the number of {kind} must be {most}")
        found.append(Criterion(kind, threshold))
    return found


def stop_set(names: Sequence[str], seed: int) -> Int64Array:
    """Sorted positions on which predictions are compared: the same in every round, drawn by chance."""
    if len(names) <= STOP_SET:
        return np.arange(len(names), dtype=np.int64)
    draw = noise.uniform(seed, "stop-set", noise.sample_keys(list(names)))
    return np.sort(np.argsort(draw, kind="stable")[:STOP_SET]).astype(np.int64)


def agreement(one: NDArray[Any], other: NDArray[Any]) -> tuple[float, float]:
    """(Cohen's kappa, share of differing entries) of two label arrays (n,)."""
    from sklearn.metrics import cohen_kappa_score

    changed = float(np.mean(one != other))
    if not changed:
        return 1.0, 0.0  # kappa is 0/0 where both say one class throughout
    return float(cohen_kappa_score(one, other)), changed


@dataclass(frozen=True)
class Expectation:
    """What the next round should bring: `gain` in accuracy (0..1) and the fitted accuracy `now`."""

    gain: float
    now: float


def expected_gain(
    labels: Sequence[int], estimates: Sequence[Mapping[str, float] | None], more: int
) -> Expectation | None:
    """Expected gain of `more` labels on top of the last entry of `labels`.

    `labels[i]` had been used when prompts were learned whose accuracy is `estimates[i]` (None: not known yet). None
    with fewer than three estimates that rest on `FEWEST_DRAWS` planned draws.
    """
    known = [(m, e) for m, e in zip(labels, estimates, strict=True) if telling(e) and m > 0]
    if len(known) < WINDOW:
        return None
    m = np.array([m for m, _ in known], np.float64)
    value = np.array([e["value"] for _, e in known])
    width = np.maximum([e["high"] - e["low"] for _, e in known], 0.02)

    def curve(parameters: NDArray[Any], at: Any) -> Any:
        top, drop, power = parameters
        return top - drop * (at / m[0]) ** -power

    def residuals(parameters: NDArray[Any]) -> NDArray[Any]:
        # A weak pull to power 0.5 (accuracy as the root of the number of labels) where the estimates leave it open.
        pull = (parameters[2] - 0.5) / 0.5
        fit: NDArray[Any] = np.append((curve(parameters, m) - value) / (width / 3.92), pull)
        return fit

    start = [min(float(value.max()) + 0.05, 1.0), 0.1, 0.5]
    found = least_squares(residuals, start, bounds=([0.0, 0.0, 0.05], [1.0, 1.0, 2.0]))
    last = float(labels[-1])
    now, then = float(curve(found.x, last)), float(curve(found.x, last + more))
    return Expectation(then - now, now)


def reason_to_stop(
    criteria: Sequence[Criterion],
    rows: Sequence[Mapping[str, Any]],
    expectation: Expectation | None,
    recent_low: float | None,
    more: int,
) -> str:
    """Why the run should end after the last of `rows`, or an empty string.

    `recent_low`: lower limit of the pool's accuracy by the last rounds' draws, where there is one.
    """
    for criterion in criteria:
        if criterion.kind == "stable" and len(rows) >= WINDOW:
            kappa = float(np.mean([row["agreement"] for row in rows[-WINDOW:]]))
            if kappa >= criterion.threshold:
                return f"predictions are stable (kappa {kappa:.3f} over the last {WINDOW} rounds)"
        if criterion.kind == "gain" and expectation is not None:
            points = 100 * expectation.gain / max(more, 1)
            if points < criterion.threshold:
                return f"a label is expected to bring {points:.3f} points of accuracy"
        if criterion.kind == "target" and recent_low is not None and recent_low >= criterion.threshold:
            return f"the pool's accuracy is at least {100 * recent_low:.1f} % by the last draws"
    return ""


def outlook(expectation: Expectation | None, changed: float, more: int) -> str:
    """The line after a round: what the next one is expected to bring."""
    moved = "" if math.isnan(changed) else f"{100 * changed:.1f} % of predictions changed in this round"
    if expectation is None:
        return f"next round: too few draws by chance to foresee its gain{'; ' + moved if moved else ''}"
    each = 100 * expectation.gain / max(more, 1)
    gain = f"next round: about +{100 * expectation.gain:.1f} points expected ({each:.2f} a label)"
    return gain + (f"; {moved}" if moved else "")
