"""What self-training is asked and what it finds, as records that may cross to another process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psp_ray.core.records import Float32Array, Float64Array, HeldOut, Int32Array, Int64Array, SoftLabels, TextState
from psp_ray.core.topk import StreamingTopK


@dataclass(frozen=True)
class ScoreRequest:
    """Who is to be scored: sorted distinct `positions` (u,), by the teacher `text`, over the views of `round`."""

    round: int
    text: TextState
    positions: Int64Array


@dataclass(frozen=True)
class KnownLabels:
    """Labels that pseudo-labels may build on: distinct `positions` (m,), their classes `labels` (m,), and the `rounds`
    (m,), not falling, in which they were bought (0: known before the first)."""

    positions: Int64Array
    labels: Int32Array
    rounds: Int64Array

    @classmethod
    def none(cls) -> KnownLabels:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64))

    @classmethod
    def at_once(cls, positions: Int64Array, labels: Int32Array) -> KnownLabels:
        """Labels that were all bought in one round."""
        return cls(positions, labels, np.ones(len(positions), np.int64))


@dataclass(frozen=True)
class Candidates:
    """The `listed` likeliest samples of each of some classes, as three columns (f,).

    Sorted by `group` (the class's place among those listed), then falling `probability`, then `position`. `truncated`:
    some class may have had more.
    """

    group: Int64Array
    probability: Float64Array
    position: Int64Array
    listed: int
    truncated: bool

    @classmethod
    def of(cls, best: StreamingTopK) -> Candidates:
        return cls(*best.result(), best.k, best.truncated)


@dataclass(frozen=True)
class Scores:
    """A teacher's opinion on samples: sorted `positions` (u,), `labels`, `confidence` and `uncertainty` (u,).

    `round` and `text` are those of the request; `candidates` serve classes with too few pseudo-labels, None where
    `pseudo_floor` asks for none. Where the posterior is to teach, nothing but the positions is known before labels are.
    """

    round: int
    text: TextState
    positions: Int64Array
    labels: Int32Array
    confidence: Float32Array
    uncertainty: Float32Array
    candidates: Candidates | None

    @classmethod
    def pending(cls, round: int, text: TextState, positions: Int64Array) -> Scores:
        """Samples that nobody has given an opinion on yet."""
        nothing = np.zeros(0, np.float32)
        return cls(round, text, positions, np.zeros(0, np.int32), nothing, nothing, None)


@dataclass(frozen=True)
class SoftTargets:
    """What heads learn from beside bought labels: `LearnRequest.soft` and `LearnRequest.held_out`."""

    soft: SoftLabels
    held_out: tuple[HeldOut, ...]
