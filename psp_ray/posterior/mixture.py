"""Class means of images that stand for others: expectation maximization where a part of the rows is in work at a time.

What a row gives to the means of a thousand classes is next to nothing for all but a few of them. Shares are left out of
the sums where all of them together are no more than `LOST` of what the class had a step before, however rare it is, and
where few are left, sums over these are cheaper than a product of matrices.
"""

from __future__ import annotations

import numpy as np
import scipy  # its parts are imported where they are first used

from psp_ray.core.records import Float32Array, Float64Array
from psp_ray.posterior.fused import Heard, read
from psp_ray.posterior.opinions import BIAS_FLOOR, BIAS_SHARE, SIZE_PRIOR, ClassMeans

LOST = 0.01
"""How much of a class may be left out of its sums."""
SPARSE = 24
"""A sum over one share costs about as much as this many in a product over all classes."""
_ENTRIES = 1 << 19  # shares in work at a time


def weighted_means(
    prior: Float32Array,
    places: Float32Array,
    mass: Float32Array,
    unknown: Float32Array,
    owned: Float32Array,
    preferred: Float64Array,
    *,
    sharpness: float,
    steps: int,
) -> ClassMeans:
    """As `psp_ray.posterior.opinions.class_means`, over images that stand for others.

    Args:
        prior: (k, C) log odds before the means have a say.
        places: (k, d) unit vectors.
        mass: (k,) images that each stands for, as sizes of classes count them; `unknown` (k,): as means count them, 0
            for images with a label.
        owned: (C, d) what labels give to the sums.
        preferred: (C,) mean probabilities of the teacher.
        sharpness, steps: as there.
    """
    n_classes, total = prior.shape[1], float(mass.sum())
    # One column more: the sum of its shares is a class's size.
    counted = np.concatenate([places * unknown[:, None], mass[:, None]], axis=1)
    height, found = max(1, _ENTRIES // n_classes), None
    room, least = np.empty((min(height, len(prior)), n_classes), np.float32), np.zeros(n_classes, np.float32)
    for _ in range(steps):
        sums = np.zeros((n_classes, counted.shape[1]), np.float32)
        matrix = None if found is None else np.ascontiguousarray(np.float32(sharpness) * found.means.T)
        for at in range(0, len(prior), height):
            part = slice(at, min(at + height, len(prior)))
            share = room[: part.stop - at]
            if found is None or matrix is None:
                share[:] = prior[part]
            else:
                np.matmul(places[part], matrix, out=share)
                share += prior[part]
            sums += _sums(share, None if found is None else found.bias, counted[part], least)
        sizes = (sums[:, -1].astype(np.float64) + SIZE_PRIOR) / (total + SIZE_PRIOR * n_classes)
        least = np.float32(LOST / total) * sums[:, -1]
        bias = BIAS_SHARE * (np.log(sizes) - np.log(preferred + BIAS_FLOOR / n_classes))
        moved = sums[:, :-1] + owned
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        means = np.divide(moved, length, out=np.zeros_like(moved), where=length > 1e-9)
        found = ClassMeans(means, bias.astype(np.float32), sharpness)
    assert found is not None, "posterior_steps is at least 1"
    return found


def _sums(odds: Float32Array, bias: Float32Array | None, counted: Float32Array, least: Float32Array) -> Float32Array:
    """`softmax(odds + bias)' counted` (C, d + 1) of odds (m, C), overwritten, and rows (m, d + 1), without the shares
    that are no more than `least` (C,)."""
    rows = np.arange(len(odds))
    known = read(odds, Heard.nothing(len(odds)), rows, least, bias=bias)
    if len(known.values) * SPARSE > odds.size:
        weight = known.confidence / odds[rows, known.labels]  # what is left in `odds` lacks its factor
        dense: Float32Array = odds.T @ (counted * weight[:, None])
        return dense
    start = np.concatenate([[0], np.cumsum(np.bincount(known.rows, minlength=len(odds)))])
    share = scipy.sparse.csr_array((known.values, known.classes, start.astype(np.int32)), shape=odds.shape)
    few: Float32Array = np.asarray(share.T @ counted, np.float32)
    return few
