"""What a stopping rule is: what the rounds so far say in, a reason to stop out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from psp_ray.run.stopping import Expectation


@dataclass(frozen=True)
class Evidence:
    """What a rule may look at; the test set is not among it.

    Args:
        agreements: Cohen's kappa between predictions before and after each round so far, on a fixed part of the pool.
        expectation: what further rounds should bring; None in the first rounds.
        accuracy_low: lower limit of the pool's accuracy by the audit, 0..1; None where there is none.
        labels_per_round: what one more round would ask for.
    """

    agreements: Sequence[float]
    expectation: Expectation | None
    accuracy_low: float | None
    labels_per_round: int


@dataclass(frozen=True)
class Stop(ABC):
    """A rule with its threshold, in the rule's own unit."""

    threshold: float

    default: ClassVar[float | None] = None
    """The threshold where none is given; None: one has to be."""
    most: ClassVar[float] = math.inf
    """The largest threshold that makes sense; the smallest is above 0."""
    example: ClassVar[float] = 0.9

    @abstractmethod
    def reason(self, evidence: Evidence) -> str:
        """Why the run should end now, or an empty string."""
