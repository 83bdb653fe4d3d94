"""What self-training is asked and what it finds, as records that may cross to another process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psp_ray.core.records import Float32Array, Float64Array, Int32Array, Int64Array, TextState
from psp_ray.core.topk import StreamingTopK


@dataclass(frozen=True)
class ScoreRequest:
    """Who is to be scored: sorted distinct `positions` (u,), by the teacher `text`, over the views of `round`."""

    round: int
    text: TextState
    positions: Int64Array


@dataclass(frozen=True)
class KnownLabels:
    """Labels that pseudo-labels may build on: distinct `positions` (m,) and their classes `labels` (m,)."""

    positions: Int64Array
    labels: Int32Array

    @classmethod
    def none(cls) -> KnownLabels:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int32))


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
    `pseudo_floor` asks for none.
    """

    round: int
    text: TextState
    positions: Int64Array
    labels: Int32Array
    confidence: Float32Array
    uncertainty: Float32Array
    candidates: Candidates | None
