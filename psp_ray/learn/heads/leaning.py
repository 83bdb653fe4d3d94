"""Classes with few or no labels lean on what zero-shot says of them, at the scale of what was learned of the others."""

from __future__ import annotations

import numpy as np

from psp_ray.core.records import Float64Array
from psp_ray.learn.heads._base import FitRequest, affine_of
from psp_ray.learn.solvers import Affine

LEAN = 6.0
"""Samples that zero-shot's word on a class without a label counts for, once there are many labels."""
POWER = 6
"""Where labels stand alone, zero-shot's word counts for its share of hits to this power, in labels of a class."""
LEAST = 0.05
"""Labels that a class without any counts as having, so that a weak teacher's word on it is not the only one."""
ODDS = 0.5
"""How much of the log of a class's labels is left out: between the pool's class sizes (0) and equal ones (1)."""
HALF = 0.5
"""Labels added to each class, so that the log of a class without any is finite."""


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
    drawn = _drawn(learned, request, share, np.asarray(request.weights, np.float64))
    own = np.where(heard, 1.0, count / (count + strength))
    return _between(learned, drawn, own)


def evened(learned: Affine, request: FitRequest) -> Affine:
    """A classifier of labels alone, whose classes of few labels lean on zero-shot and whose sizes count half (ours).

    Labels that were drawn from a pool say how frequent its classes are as well as what they look like, and where a
    class has a label or two that is most of what was learned of it. So half of the log of a class's labels is taken
    back (logit adjustment, Menon et al., ICLR 2021; see `psp_ray.learn.heads.residual.size_odds`), and class c is drawn
    to zero-shot by `h^6 / (n_c + LEAST + h^6)`, n_c its labels and h zero-shot's share of hits on the bought labels,
    mean over classes. What it is drawn to is that of `leaning`, with half of its size's odds.

    Without two labeled classes nothing changes. Linear in the features, as `learned` is.
    """
    bought = request.bought & (request.weights > 0)
    count = request.targets[bought].sum(axis=0).astype(np.float64)
    if (count > 0).sum() < 2:
        return learned
    share = count / count.sum()
    drawn = _drawn(learned, request, share, bought.astype(np.float64))
    odds = np.log(count + HALF)
    odds -= share @ odds
    own = (count + LEAST) / (count + LEAST + _recall(request) ** POWER)
    taken = Affine(learned.vectors, learned.bias - ODDS * odds)
    return _between(taken, Affine(drawn.vectors, drawn.bias + ODDS * odds), own)


def _recall(request: FitRequest) -> float:
    """Zero-shot's share of hits on the bought labels, mean over their classes; half a class right is added."""
    rows = request.bought & (request.weights > 0)
    labels = request.targets[rows].argmax(axis=1)
    hits = affine_of(request.zero_shot).logits(request.features[rows]).argmax(axis=1) == labels
    shares = [float(hits[labels == label].mean()) for label in np.unique(labels)]
    return (sum(shares) + 0.5) / (len(shares) + 1.0)


def _drawn(learned: Affine, request: FitRequest, share: Float64Array, weights: Float64Array) -> Affine:
    """What classes are drawn to; `share` (C,) weighs the labeled classes and sums to 1, `weights` (n,) the rows."""
    heard = share > 0
    zero_shot = affine_of(request.zero_shot)
    said, known = (part - (part @ share)[:, None] for part in map(_matrix, (learned, zero_shot)))
    # Sums over samples of products of logits, by the samples' own products: these are few where classes are many.
    x = np.concatenate([request.features, np.ones((len(request.features), 1))], axis=1, dtype=np.float64)
    told = (x * weights[:, None]).T @ x @ known
    factor = max(float((heard * said * told).sum() / max((heard * known * told).sum(), 1e-12)), 0.0)
    vectors = share @ learned.vectors + factor * (zero_shot.vectors - share @ zero_shot.vectors)
    bias = share @ learned.bias + factor * (zero_shot.bias - share @ zero_shot.bias)
    return Affine(vectors, bias)


def _between(learned: Affine, drawn: Affine, own: Float64Array) -> Affine:
    """Class by class the share `own` (C,) of what was learned, the rest of what the classes are drawn to."""
    rest = 1.0 - own
    return Affine(
        own[:, None] * learned.vectors + rest[:, None] * drawn.vectors, own * learned.bias + rest * drawn.bias
    )


def _matrix(affine: Affine) -> Float64Array:
    """Vectors and bias as one matrix (d + 1, C), for features with a 1 behind them."""
    return np.concatenate([affine.vectors, affine.bias[:, None]], axis=1).T
