"""The record of a round: what `rounds.csv`, `summary.json`, checkpoints, progress and tables are made of.

Where a number may be unknown its type says so (`float | None`), and it is None then, `null` in JSON and an empty cell
in CSV. Nothing here is ever NaN or infinite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

from psp_ray.posterior.accuracy import Estimate


class Next(Enum):
    """What a listener wants to happen after a round."""

    CONTINUE = "continue"
    STOP = "stop"


@dataclass(frozen=True)
class StageSeconds:
    """Seconds that each stage of a round took its component; stages that run side by side overlap."""

    propose: float = 0.0
    label: float = 0.0
    pseudo_label: float = 0.0
    learn: float = 0.0
    evaluate: float = 0.0
    reward: float = 0.0
    update: float = 0.0
    checkpoint: float = 0.0
    """0 in the round's own checkpoint, which can't time itself."""

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    @property
    def total(self) -> float:
        return math.fsum(self.as_dict().values())


@dataclass(frozen=True)
class RoundReport:
    """One finished round. Shares and accuracies are fractions (0..1), times are seconds.

    Raises:
        ValueError: a number that is not finite.
    """

    round: int
    """Counts from 1."""
    labels_new: int
    """Images of the query set that were given a class."""
    labels_unasked: int | None
    """Images that were given a class in this round though its query set doesn't ask about them: ahead of being asked,
    in `corrections.csv`, or by an earlier query set. None: an older psp-ray wrote the round."""
    labels_total: int
    """Images with a class after the round, initial labels included."""
    skipped: int
    """Images of the query set that nobody could tell."""
    ignored: int
    """Images of the query set that show none of the classes."""
    pseudo_labels: int
    pseudo_label_precision: float | None
    """Share of right pseudo-labels among those whose class is known; None: of none is it known, or there are none."""
    test_accuracy: float | None
    """Accuracy of the round's student on `evaluate_on`; None without labeled images there."""
    test_macro_accuracy: float | None
    """The same averaged over the classes that occur."""
    pool_accuracy_estimate: Estimate | None
    """Accuracy of the round's student on images like the pool's. None: not judged yet, which the next round's draws do
    where no folds are refitted, or not known, where nothing is drawn by chance."""
    agreement: float
    """Cohen's kappa between the predictions before and after the round on a fixed part of the pool."""
    predictions_changed: float
    """Share of the same predictions that changed."""
    expected_gain: float | None
    """Accuracy that the next round is expected to add; None in the first two rounds."""
    reward: float | None
    """None where the strategy has none, or nothing was labeled."""
    ms_indicator: float | None
    """Log-probability of the draw; None where the strategy doesn't define it."""
    next_key: float | None
    """The (n_s+1)-th perturbed key of the draw; None where there is none."""
    train_loss: float | None
    """Loss of the student's last step; None where nothing was learned."""
    restarts: int
    """How often the divergence guard started learning again."""
    seconds: StageSeconds
    wall_seconds: float
    """From the beginning of the round to its checkpoint."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"round {self.round}: {field.name} is {value}; what is not known must be None")

    def as_json(self) -> dict[str, Any]:
        """All fields as plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> RoundReport:
        """What `as_json` gave.

        Raises:
            ValueError: written by another version, whose fields were others.
        """
        estimate = stored.get("pool_accuracy_estimate")
        values = {
            "labels_unasked": None,
            **stored,
            "pool_accuracy_estimate": None if estimate is None else estimate_from_json(estimate),
            "seconds": StageSeconds(**stored.get("seconds", {})),
        }
        if values.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"a round's report with the fields {', '.join(stored)}")
        return cls(**values)

    def summary_row(self) -> dict[str, Any]:
        """The round in `summary.json`: all but what only later computations need."""
        return {key: value for key, value in self.as_json().items() if key not in _NOT_IN_SUMMARY}

    def csv_row(self) -> dict[str, Any]:
        """The round's line of `rounds.csv`: nested values as columns of their own, the stages' seconds last."""
        estimate = self.pool_accuracy_estimate
        row: dict[str, Any] = {}
        for key, value in self.as_json().items():
            if key == "pool_accuracy_estimate":
                row |= {f"{key}_{f.name}": None if estimate is None else value[f.name] for f in fields(Estimate)}
            elif key != "seconds":
                row[key] = value
        row |= {f"seconds_{stage}": round(value, 4) for stage, value in self.seconds.as_dict().items()}
        return {key: "" if value is None else value for key, value in row.items()}


_NOT_IN_SUMMARY = frozenset({"next_key", "train_loss", "restarts"})


def estimate_from_json(stored: Mapping[str, Any]) -> Estimate:
    """The estimate that its `as_dict` gave. Raises ValueError where another version wrote it."""
    if stored.keys() != {field.name for field in fields(Estimate)}:
        raise ValueError(f"an estimate with the fields {', '.join(stored)}")
    return Estimate(**stored)


def known(value: float) -> float | None:
    """`value` as a Python float, None where it is NaN or infinite: how unknown numbers enter a report."""
    number = float(value)
    return number if math.isfinite(number) else None
