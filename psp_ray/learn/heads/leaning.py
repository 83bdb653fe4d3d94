"""Classes without a label lean on what zero-shot says of them, at the scale of what was learned of the others."""

from __future__ import annotations

import numpy as np

from psp_ray.core.records import Float64Array
from psp_ray.learn.heads._base import FitRequest, affine_of
from psp_ray.learn.solvers import Affine

LEAN = 6.0
"""Samples that zero-shot's word on a class without a label counts for, once there are many labels."""


def leaning(learned: Affine, request: FitRequest) -> Affine:
    """`learned`, each class without a label drawn to zero-shot by `k / (n_c + k)` (ours).

    What such a class is among the n_c samples that pseudo-labels give it may be mistakes alone, and a class that is not
    in the pool at all is one that a classifier still has to know. What it would be is told by the others: their learned
    logits l are related to zero-shot's z by one factor s, the least squares of `l - mean_c l = s (z - mean_c z)` over
    samples and classes that have a label, means weighted by n_c. So it is drawn to `mean_c l + s (z - mean_c z)`: a
    teacher who knows the labeled classes is believed on the others, and one who doesn't leaves them where no class
    stands out.

    `k = LEAN (1 - C/m)` for m labels: before there are as many labels as classes, pseudo-labels are the better word.
    Without two labeled classes nothing changes. Linear in the features, as `learned` is.
    """
    count = request.counts if request.rest is None else request.counts + request.rest.count
    bought = request.bought & (request.weights > 0)
    heard = request.targets[bought].sum(axis=0) > 0
    strength = LEAN * (1.0 - request.n_classes / max(int(bought.sum()), 1))
    share = count * heard
    if heard.all() or heard.sum() < 2 or share.sum() <= 0 or strength <= 0:
        return learned
    share /= share.sum()
    zero_shot = affine_of(request.zero_shot)
    said, known = (part - (part @ share)[:, None] for part in map(_matrix, (learned, zero_shot)))
    # Sums over samples of products of logits, by the samples' own products: these are few where classes are many.
    x = np.concatenate([request.features, np.ones((len(request.features), 1))], axis=1, dtype=np.float64)
    told = (x * np.asarray(request.weights, np.float64)[:, None]).T @ x @ known
    factor = max(float((heard * said * told).sum() / max((heard * known * told).sum(), 1e-12)), 0.0)
    vectors = share @ learned.vectors + factor * (zero_shot.vectors - share @ zero_shot.vectors)
    bias = share @ learned.bias + factor * (zero_shot.bias - share @ zero_shot.bias)
    own = np.where(heard, 1.0, count / (count + strength))
    rest = 1.0 - own
    return Affine(own[:, None] * learned.vectors + rest[:, None] * vectors, own * learned.bias + rest * bias)


def _matrix(affine: Affine) -> Float64Array:
    """Vectors and bias as one matrix (d + 1, C), for features with a 1 behind them."""
    return np.concatenate([affine.vectors, affine.bias[:, None]], axis=1).T
