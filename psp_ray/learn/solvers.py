"""What the heads are solved with: logistic regression on soft labels, Gaussian discriminants, one scale. No ray.

All take features (n, d), targets (n, C) >= 0 (a label is a row of one 1) and weights (n,) >= 0, and give class vectors
with a bias, `logits = features @ vectors.T + bias`. A sample of weight 0 changes nothing, an order of the classes is
kept, and the same input gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts are imported where they are first used
from numpy.typing import NDArray

from psp_ray.core.records import Float32Array, Float64Array, Int64Array, Moments

BIAS_PENALTY = 1e-3
"""Penalty on the squared bias: small enough to leave it free, and the problem keeps one solution."""
SCALE_RANGE = (1e-3, 1e2)
WHOLE, ENOUGH = 1 << 22, 1 << 20
"""Logits (n C) beyond which a scale is fitted to some rows, and about as many as then are."""


@dataclass(frozen=True)
class Affine:
    """Class vectors (C, d) and bias (C,), float64: `logits = features @ vectors.T + bias`."""

    vectors: Float64Array
    bias: Float64Array

    def logits(self, features: NDArray[Any]) -> Float64Array:
        """(n, C) float64 of features (n, d)."""
        result: Float64Array = np.asarray(features, np.float64) @ self.vectors.T + self.bias
        return result

    def scaled(self, factor: float) -> Affine:
        return Affine(factor * self.vectors, factor * self.bias)

    def plus(self, other: Affine) -> Affine:
        return Affine(self.vectors + other.vectors, self.bias + other.bias)


def cross_entropy(logits: NDArray[Any], targets: NDArray[Any]) -> Float64Array:
    """`-sum_c t_ic log p_ic` of each row (n,)."""
    logits = np.asarray(logits, np.float64)
    top = logits.max(axis=1)
    normalizer = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    result: Float64Array = targets.sum(axis=1) * normalizer - (targets * logits).sum(axis=1)
    return result


def fit_logistic(
    features: NDArray[Any],
    targets: NDArray[Any],
    weights: NDArray[Any],
    penalty: float,
    *,
    offset: NDArray[Any] | None = None,
    steps: int = 100,
) -> Affine:
    """Multinomial logistic regression with soft labels: minimizes over vectors W and bias b

        sum_i w_i CE(t_i, softmax(o_i + W f_i + b)) + penalty/2 |W|^2 + BIAS_PENALTY/2 |b|^2,

    with fixed `offset` o (n, C): W is then a residual beside another classifier. `penalty` is 1/C of scikit-learn's
    LogisticRegression. L-BFGS (Liu and Nocedal, 1989) in coordinates in which Boehning's bound on the Hessian
    (Ann. Inst. Stat. Math. 1992), `1/2 F'wF + penalty`, is the identity: some tens of steps, however skewed the
    features' spectrum is. O(n d C) a step.
    """
    n, dim = features.shape
    n_classes = targets.shape[1]
    keep = np.asarray(weights) > 0
    design = np.concatenate([features, np.ones((n, 1))], axis=1)[keep]
    t, w = np.asarray(targets, np.float32)[keep], np.asarray(weights, np.float32)[keep, None]
    base = np.zeros((len(t), n_classes), np.float32) if offset is None else np.asarray(offset, np.float32)[keep]
    ridge = np.append(np.full(dim, penalty), BIAS_PENALTY)
    bound = 0.5 * (design * w).T @ design
    bound[np.diag_indices(dim + 1)] += ridge
    lower = np.linalg.cholesky(bound)
    inverse = scipy.linalg.solve_triangular(lower, np.eye(dim + 1), lower=True)
    x = (design @ inverse.T).astype(np.float32)
    quadratic = (inverse * ridge) @ inverse.T
    mass = t.sum(axis=1, keepdims=True)

    def loss(flat: Float64Array) -> tuple[float, Float64Array]:
        v = flat.reshape(dim + 1, n_classes)
        z = base + x @ v.astype(np.float32)
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        value = float((w * (mass * np.log(total) - (t * z).sum(axis=1, keepdims=True))).sum(dtype=np.float64))
        pulled = quadratic @ v
        gradient = x.T @ (w * (mass * p - t)) + pulled
        return value + 0.5 * float((v * pulled).sum()), gradient.ravel().astype(np.float64)

    start = np.zeros((dim + 1) * n_classes)
    options = {"maxiter": steps, "maxcor": 10, "ftol": 1e-8, "gtol": 1e-4}
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    solution = inverse.T @ found.x.reshape(dim + 1, n_classes)
    return Affine(solution[:-1].T.copy(), solution[-1].copy())


def fit_discriminant(
    features: NDArray[Any],
    targets: NDArray[Any],
    weights: NDArray[Any],
    shrinkage: float,
    *,
    prior: NDArray[Any] | None = None,
    prior_weight: float = 0.0,
    rest: Moments | None = None,
) -> Affine:
    """Gaussian discriminant with one covariance for all classes, from soft labels.

    Means `m_c = sum_i w_i t_ic f_i / n_c`, covariance S = pooled within the classes, shrunk towards a multiple of the
    identity, `(1 - shrinkage) S + shrinkage tr(S)/d I`. Class vectors `S^-1 m_c`, bias `-1/2 m_c S^-1 m_c`: classes
    count as equally probable, for what is bought and kept says little about how frequent they are.

    `prior` (n, C): opinions p_ic that are worth `prior_weight` samples a class; a class without any sample has its mean
    from them, and without them the mean of all samples and the bias of the farthest class.
    `rest`: moments of further samples, weighted already.
    """
    x = np.asarray(features, np.float64)
    mass = np.asarray(targets, np.float64) * np.asarray(weights, np.float64)[:, None]
    center = mass.sum(axis=1) @ x / max(mass.sum(), 1e-12)
    x = x - center
    count = mass.sum(axis=0)
    moment = mass.T @ x
    square = (x * mass.sum(axis=1)[:, None]).T @ x
    if prior is not None and prior_weight > 0:
        p = np.asarray(prior, np.float64) * (np.asarray(weights) > 0)[:, None]
        p *= prior_weight / np.maximum(p.sum(axis=0), 1e-12)
        count = count + p.sum(axis=0)
        moment = moment + p.T @ x
        square = square + (x * p.sum(axis=1)[:, None]).T @ x
    if rest is not None:
        count = count + rest.count
        moment = moment + rest.first - rest.count[:, None] * center
        total = rest.first.sum(axis=0)
        square = square + rest.second - np.outer(total, center) - np.outer(center, total)
        square = square + rest.count.sum() * np.outer(center, center)
    known = count > 1e-9
    means = np.where(known[:, None], moment / np.maximum(count, 1e-9)[:, None], 0.0)
    within = (square - (means * count[:, None]).T @ means) / max(count.sum(), 1e-12)
    spread = max(float(np.trace(within)) / within.shape[0], 1e-12)
    within = (1.0 - shrinkage) * within
    within[np.diag_indices(len(within))] += max(shrinkage, 1e-6) * spread
    vectors = np.linalg.solve(within, means.T).T
    bias = -0.5 * (means * vectors).sum(axis=1)
    bias = np.where(known, bias, bias.min())
    return Affine(vectors, bias - vectors @ center)


def telling(weights: NDArray[Any], n_classes: int) -> tuple[Int64Array | slice, Float64Array]:
    """Rows that a scale is fitted to, and what they count, of rows with `weights` (n,): all, as they count; beyond
    `WHOLE` logits evenly spaced ones, which count for all (one number from millions: they tell it as well)."""
    w = np.asarray(weights, np.float64)
    if len(w) * n_classes <= WHOLE:
        return slice(None), w
    rows = np.flatnonzero(w > 0)[:: -(-len(w) * n_classes // ENOUGH)]
    return rows, w[rows] * (w.sum() / w[rows].sum())


def fit_scale(logits: NDArray[Any], targets: NDArray[Any], weights: NDArray[Any], spread: float | None = None) -> float:
    """The factor on logits (n, C) of smallest weighted cross-entropy, within `SCALE_RANGE`.

    `spread`: standard deviation of a normal prior of its logarithm around 0; None: no prior. 1 for no samples. Beyond
    `WHOLE` logits it is fitted to evenly spaced rows, which count for all.
    """
    w = np.asarray(weights, np.float64)
    keep = w > 0
    if not keep.any():
        return 1.0
    rows, w = telling(w, logits.shape[1])
    logits, targets, keep = logits[rows], targets[rows], keep[rows]
    z, t, w = np.asarray(logits, np.float64)[keep], np.asarray(targets, np.float64)[keep], w[keep]
    # `cross_entropy`, bit for bit, with what no factor changes taken out (factors are positive), in two work tables.
    top, mass = z.max(axis=1), t.sum(axis=1)
    scaled, work = np.empty_like(z), np.empty_like(z)

    def loss(log_scale: float) -> float:
        factor = np.exp(log_scale)
        highest = factor * top
        np.multiply(factor, z, out=scaled)
        met = np.multiply(t, scaled, out=work).sum(axis=1)
        np.exp(np.subtract(scaled, highest[:, None], out=scaled), out=scaled)
        value = float(w @ (mass * (highest + np.log(scaled.sum(axis=1))) - met))
        return value if spread is None else value + 0.5 * (log_scale / spread) ** 2

    found = scipy.optimize.minimize_scalar(
        loss, bounds=tuple(np.log(SCALE_RANGE)), method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(found.x))


def classifier(affine: Affine) -> tuple[Float32Array, Float32Array, float]:
    """(vectors (C, d), bias (C,), scale): the same probabilities as `affine`'s, with vectors of mean square length 1.

    `logits = scale * features @ vectors.T + bias`. What all classes share, which no probability depends on, is taken
    out of vectors and bias first.
    """
    vectors = affine.vectors - affine.vectors.mean(axis=0)
    bias = affine.bias - affine.bias.mean()
    scale = float(np.sqrt(np.square(vectors).sum(axis=1).mean()))
    scale = scale if scale > 1e-12 else 1.0
    return (vectors / scale).astype(np.float32), bias.astype(np.float32), scale
