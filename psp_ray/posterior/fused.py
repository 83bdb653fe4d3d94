"""From rows of log odds to what is not small among their probabilities, at one go while a row is in the nearest cache.

numpy takes seven passes for it, and where a processor lacks AVX-512 its exponential alone costs nearly half of the
product that the log odds come from. Here `exp(z)` is `2^k 2^f` with whole k and 0 <= f < 1: the bits of a float for the
one, a polynomial for the other, which the compiler makes vectors of. The relative error stays below 1e-5 down to e^-86;
what is smaller counts as that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported where they are first used
from numpy.polynomial import Chebyshev, Polynomial

from psp_ray.core.compiled import compiled
from psp_ray.core.records import Float32Array, Int32Array, Int64Array
from psp_ray.neighbors.attach import Attached

_POWER = np.asarray(Chebyshev.interpolate(np.exp2, 5, domain=[0, 1]).convert(kind=Polynomial).coef, np.float32)
"""`2^f`, for 0 <= f < 1."""


@dataclass(frozen=True)
class Heard:
    """What the graph's members say to the images attached to them: the sparse row j of log odds (k, C) is
    `columns[start[j] : start[j + 1]]` and `values` there."""

    attached: Attached
    start: Int64Array
    columns: Int32Array
    values: Float32Array

    @classmethod
    def of(cls, attached: Attached, odds: scipy.sparse.csr_array, factor: float) -> Heard:
        """`factor` times the `odds` (k, C) of the members."""
        values = np.float32(factor) * np.asarray(odds.data, np.float32)
        return cls(attached, np.asarray(odds.indptr, np.int64), np.asarray(odds.indices, np.int32), values)

    @classmethod
    def nothing(cls, n: int) -> Heard:
        """Where `n` images hear nobody."""
        silence = Attached(np.zeros((n, 0), np.int32), np.zeros((n, 0), np.float16))
        return cls(silence, np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class Known:
    """What is known of m images: likeliest `labels` and its `confidence` (m,), and entry by entry the probabilities
    that are not small: `rows`, `classes`, `values` (e,)."""

    labels: Int32Array
    confidence: Float32Array
    rows: Int32Array
    classes: Int32Array
    values: Float32Array


def read(
    logits: Float32Array,
    heard: Heard,
    positions: Int64Array,
    least: Float32Array,
    *,
    scale: Float32Array | None = None,
    bias: Float32Array | None = None,
) -> Known:
    """Probabilities of the images at `positions` (m,), from their `logits` (m, C) and what they hear: those above
    `least` (C,), which each class has its own of.

    `scale` (m,) > 0 and `bias` (C,): log odds are `scale_i logits_ic + bias_c` and what is heard. `logits` are
    overwritten: by probabilities, but for a factor that a row has. Ties go to the lower class.
    """
    m, n_classes = logits.shape
    most = m * min(n_classes, int(1.0 / max(float(least.min()), 1e-6)) + 1)
    labels, confidence = np.empty(m, np.int32), np.empty(m, np.float32)
    rows, classes, values = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.float32)
    count = compiled(_read, _READ, reorder=True)(
        logits,
        np.ones(m, np.float32) if scale is None else scale,
        np.zeros(n_classes, np.float32) if bias is None else bias,
        heard.attached.members[positions],
        heard.attached.weights[positions].astype(np.float32),
        *(heard.start, heard.columns, heard.values),
        _POWER,
        least,
        *(labels, confidence, rows, classes, values),
    )
    return Known(labels, confidence, rows[:count], classes[:count], values[:count])


_READ = (
    "int64(float32[:,::1], float32[::1], float32[::1], int32[:,::1], float32[:,::1], int64[::1], int32[::1], "
    "float32[::1], float32[::1], float32[::1], int32[::1], float32[::1], int32[::1], int32[::1], float32[::1])"
)


def _read(  # type: ignore[no-untyped-def]  # numba knows the types of its arguments from the signature
    table, scale, bias, heard, shares, start, columns, odds, power, least, labels, confidence, rows, classes, values
):
    a0, a1, a2, a3, a4, a5 = power[0], power[1], power[2], power[3], power[4], power[5]
    n, n_classes = table.shape
    bits = np.empty(n_classes, np.int32)
    whole = bits.view(np.float32)
    count = 0
    for i in range(n):
        row, factor = table[i], scale[i]
        for j in range(heard.shape[1]):
            share = shares[i, j] / factor
            for at in range(start[heard[i, j]], start[heard[i, j] + 1]):
                row[columns[at]] += share * odds[at]
        for c in range(n_classes):
            row[c] = factor * row[c] + bias[c]
        top = row[0]
        for c in range(1, n_classes):
            top = max(top, row[c])
        for c in range(n_classes):
            z = max((row[c] - top) * np.float32(1.4426950408889634), np.float32(-125.0))
            k = np.floor(z)
            f = z - k
            row[c] = a0 + f * (a1 + f * (a2 + f * (a3 + f * (a4 + f * a5))))
            bits[c] = (np.int32(k) + np.int32(127)) << np.int32(23)
        total = np.float32(0.0)
        for c in range(n_classes):
            row[c] *= whole[c]
            total += row[c]
        best, high = 0, row[0]
        for c in range(n_classes):
            if row[c] > total * least[c]:
                rows[count], classes[count], values[count] = i, c, row[c] / total
                count += 1
            if row[c] > high:
                best, high = c, row[c]
        labels[i], confidence[i] = best, high / total
    return count
