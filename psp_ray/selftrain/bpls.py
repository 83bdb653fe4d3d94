"""BPLS: which pseudo-labels are kept, balanced over the classes (method.md, "UST").

1. Keep: confidence >= `confidence_min` and uncertainty <= `uncertainty_max` (of the graph's opinion,
   or where it agrees, if that is asked for).
2. Fill: a class that kept fewer than `pseudo_floor` takes the samples of highest averaged probability *for that
   class*, among those not kept. A sample is filled into one class only: pairs (sample, class) over the classes that
   lack something are taken in order of falling probability (ties: lower class, then lower position), each one whose
   sample is still free and whose class still lacks one. A filled sample's confidence is that probability.
3. Cap: a class that kept more than `pseudo_cap` keeps the most confident (ties: lower position).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.records import Float64Array, Int32Array, Int64Array
from psp_ray.core.topk import rank_in_group
from psp_ray.selftrain.records import Candidates


@dataclass(frozen=True)
class Filling:
    """Samples taken to fill classes: `positions`, `labels`, `probabilities` (f,).

    `short`: classes that still lack samples although their list of candidates was cut off: the result is not final.
    """

    positions: Int64Array
    labels: Int32Array
    probabilities: Float64Array
    short: Int64Array


def passes(
    confidence: NDArray[np.floating], uncertainty: NDArray[np.floating], settings: SelfTrainingSettings
) -> NDArray[np.bool_]:
    """Which samples pass both thresholds; NaN never does."""
    result: NDArray[np.bool_] = (confidence >= settings.confidence_min) & (uncertainty <= settings.uncertainty_max)
    return result


def within_cap(
    labels: Int32Array, confidence: NDArray[np.floating], positions: Int64Array, cap: int
) -> NDArray[np.bool_]:
    """Mask (p,) of the `cap` most confident samples of each class; all of them where `cap` is 0."""
    keep = np.ones(len(labels), bool)
    if cap:
        order = np.lexsort((positions, -confidence.astype(np.float64), labels))
        keep[order] = rank_in_group(labels[order].astype(np.int64)) < cap
    return keep


def fill(lacking: Int64Array, classes: Int64Array, candidates: Candidates, blocked: Int64Array) -> Filling:
    """Fill classes from candidate lists by the rule above.

    `lacking` (C,): how many samples each class lacks. `candidates`: for group g the best samples of class
    `classes[g]`; classes that lack something must be among them. `blocked`: sorted positions not to be taken.
    """
    probability, position = candidates.probability, candidates.position
    label = classes[candidates.group]
    usable = (lacking[label] > 0) & ~_contains(blocked, position)
    label, probability, position = label[usable], probability[usable], position[usable]
    order = np.lexsort((position, label, -probability))
    missing = {int(c): int(lacking[c]) for c in np.flatnonzero(lacking > 0)}
    taken: set[int] = set()
    chosen: list[int] = []
    for at in order:
        c, where = int(label[at]), int(position[at])
        if missing.get(c) and where not in taken:
            taken.add(where)
            chosen.append(int(at))
            missing[c] -= 1
            if not missing[c]:
                del missing[c]
                if not missing:
                    break
    short = np.array(sorted(missing), np.int64) if candidates.truncated else np.zeros(0, np.int64)
    index = np.array(chosen, np.int64)
    return Filling(position[index], label[index].astype(np.int32), probability[index], short)


def _contains(sorted_positions: Int64Array, positions: Int64Array) -> NDArray[np.bool_]:
    if len(sorted_positions) == 0:
        return np.zeros(len(positions), bool)
    at = np.minimum(np.searchsorted(sorted_positions, positions), len(sorted_positions) - 1)
    result: NDArray[np.bool_] = sorted_positions[at] == positions
    return result
