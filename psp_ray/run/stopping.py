"""What one more round is expected to bring; no rule in `psp_ray.run.stops` looks at the test set either.

The expected gain is read from how many predictions a round still changes: accuracy can't gain more than that share.
In 18 runs of 9 rounds on three image sets with a test set (digits, dtd10, rsscn7; two strategies, three seeds) a
quarter of what a round changed was gained in the next one, more on two of the sets and half of it on the third; in
simulations it was a fifth. Changes are taken to fade as the slope of a learning curve of power one half does, with the
labels to the power -1.5 (Figueroa et al., BMC Med. Inform. Decis. Mak. 2012, for curves of this kind).

What one round will bring can't be foreseen sharply, so a range is told, and it often holds 0. It goes with the root of
the share, since what is gained is the difference of what was put right and what was spoiled, and it is wider for
accuracies that are read off few images. Its constants are of runs on pools of 40 to 500 images of some data sets, and
were judged on others (docs/method.md, "When it is enough").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core import noise
from psp_ray.core.records import Int64Array, UInt64Array
from psp_ray.core.words import counted

WINDOW = 3
"""Rounds that a rule looks at."""
STOP_SET = 2000
"""Images on which predictions are compared (Bloodgood and Vijay-Shanker use as many)."""
HORIZON = 4
"""Rounds to come, together, that `enough` looks at."""
NET = 0.25
"""Points of accuracy gained for each point of predictions changed, on average; see above."""
REACH = 0.13
"""Eight of ten gains lie within so many times the root of the share of predictions changed around that."""
NOISE = 60.0
"""Test images among which luck adds as much to the square of that reach as there is without."""
FADING = 1.5
RECENT = 2
"""Rounds whose changes are averaged."""


def stop_set(keys: UInt64Array, seed: int) -> Int64Array:
    """Sorted positions on which predictions are compared: the same in every round, drawn by chance; `keys` (n,) are the
    noise keys of the pool's names."""
    if len(keys) <= STOP_SET:
        return np.arange(len(keys), dtype=np.int64)
    draw = noise.uniform(seed, "stop-set", keys)
    return np.sort(np.argsort(draw, kind="stable")[:STOP_SET]).astype(np.int64)


def agreement(one: NDArray[Any], other: NDArray[Any]) -> tuple[float, float]:
    """(Cohen's kappa, share of differing entries) of two label arrays (n,)."""
    changed = float(np.mean(one != other))
    if not changed:
        return 1.0, 0.0  # kappa is 0/0 where both say one class throughout
    # Step by step as scikit-learn has it, to the same bits: importing that takes longer than a round.
    classes, codes = np.unique(np.concatenate([one, other]), return_inverse=True)
    first, second = (np.bincount(part, minlength=len(classes)) for part in np.split(codes, 2))
    expected = np.outer(second, first) / len(one)
    np.fill_diagonal(expected, 0.0)
    return 1.0 - float(np.sum(one != other) / np.sum(expected)), changed


@dataclass(frozen=True)
class Expectation:
    """What the next round should bring on average, and the next `HORIZON` rounds together: accuracy, 0..1.

    `share`: of predictions that the next round should change.
    """

    gain: float
    share: float
    later: float

    @property
    def enough(self) -> bool:
        """Whether the rounds to come are expected to bring less than the default of `enough` together."""
        return 100 * self.later < 1.0


@dataclass(frozen=True)
class Measure:
    """What is known of accuracy: predictions are compared on `compared` images of the pool; `split` has `tested`
    labeled images, on which `accuracy` (0..1) is reached now, or none of them (0).

    `moving`: whether that accuracy has just moved by more than its own noise, whatever the pool's predictions did;
    `excess`: how far, in units of what its reach would have been with the predictions that changed.
    """

    compared: int
    split: str = "test"
    tested: int = 0
    accuracy: float = 0.0
    moving: bool = False
    excess: float = 0.0

    def reach(self, share: float) -> float:
        """How far from its mean the gain of a round lies that changes such a `share` of predictions, in 8 of 10 cases.

        One more image of the pool counts as changed: that few changed, or none, is itself seen on few images.
        """
        luck = 1.0 + (NOISE / self.tested if self.tested else 0.0)
        return REACH * math.sqrt(luck * (share + 1.0 / max(self.compared, 1)))


def expected_gain(changed: Sequence[float]) -> Expectation | None:
    """Expected gain of further rounds like the last ones.

    `changed` (t,): the share of predictions that each round changed. The first round's is left out: it took leave of
    zero-shot. None before `WINDOW` rounds.
    """
    done = len(changed)
    if done < WINDOW:
        return None
    # Changes fade fast at first: the mean of the last rounds alone would promise what the first ones brought.
    now = min(float(changed[-1]), float(np.mean(changed[-RECENT:])))
    shares = [now * (done / (done + ahead)) ** FADING for ahead in range(1, HORIZON + 1)]
    return Expectation(NET * shares[0], shares[0], NET * sum(shares))


def likely_range(expectation: Expectation, measure: Measure) -> tuple[float, float]:
    """What the next round brings in eight of ten cases, lowest and highest: accuracy, 0..1.

    On the images of the split where there are any, else on images like the pool's. Where accuracy has just moved
    further than its reach, half of the excess is added.
    """
    reach = measure.reach(expectation.share) * max(1.0, 0.5 + 0.5 * measure.excess)
    low, high = expectation.gain - reach, expectation.gain + reach
    if not measure.tested:
        return low, high
    return max(low, -measure.accuracy), min(high, 1.0 - measure.accuracy)


def outlook(expectation: Expectation | None, changed: float, more: int, measure: Measure, against: str = "") -> str:
    """The line after a round: what the next one is expected to bring, and whether it is worth it.

    `changed`: the share of predictions that this one changed; `more`: labels of a round; `against`: what speaks against
    calling it enough where little more is to be gained (`psp_ray.run.standing`). Nothing is called so while the measure
    moves.
    """
    moved = f"; {100 * changed:.1f} % of the pool's predictions changed in this round"
    if expectation is None:
        return f"next round: its gain can be foreseen from round {WINDOW} on{moved}"
    if expectation.enough and not measure.moving:
        points = 100 * expectation.later
        rest = f"{HORIZON} more rounds are expected to bring {points:.1f} points together, seldom more than 2"
        return f"more of the same will not help: {rest}, but {against}{moved}" if against else f"enough: {rest}{moved}"
    low, high = (100 * end for end in likely_range(expectation, measure))
    what = f"{measure.split if measure.tested else 'pool'} accuracy"
    return (
        f"next round: {low:+.1f} to {high:+.1f} points of {what} in 8 of 10 cases, for {counted(more, 'label')}{moved}"
    )
