"""How far people agree who said what of the same images: Krippendorff's alpha, and what most of them said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np


def nominal_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal values: 1: always the same, 0: as by chance.

    Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), from the matrix of coincidences: of the m values
    of a unit each pair counts 1 / (m - 1). The packages that have it are under the GPL, or bring much else along.

    Args:
        units: what was said of each image, one value a person; those with fewer than two don't count.

    Returns:
        None where all values are the same, or nothing was said twice.
    """
    several = [list(unit) for unit in units if len(unit) > 1]
    place = {value: row for row, value in enumerate(dict.fromkeys(value for unit in several for value in unit))}
    coincidences = np.zeros((len(place), len(place)))
    for unit in several:
        counts = np.bincount([place[value] for value in unit], minlength=len(place))
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    each = coincidences.sum(axis=0)
    expected = each.sum() ** 2 - (each**2).sum()
    if not expected:
        return None
    observed = each.sum() - np.trace(coincidences)
    return float(1 - (each.sum() - 1) * observed / expected)


def most_said(values: Sequence[Hashable]) -> Hashable | None:
    """What more people said than anything else; None where several things were said equally often."""
    counts = Counter(values).most_common(2)
    return None if len(counts) > 1 and counts[0][1] == counts[1][1] else counts[0][0]
