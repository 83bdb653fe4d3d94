"""What the posterior's parts say about an image, each as log odds (n, C): the teacher, the graph, the class means.

*Teacher*: logits of the averaged encodings, times a weight fitted to the bought labels, which a zero-shot teacher has
never seen. *Graph*: shares of the class masses of label propagation, flat where little mass arrives. *Class means*:
cosines in a whitened space to means that are estimated from bought labels and, by their posterior, from all other
images; expectation maximization of a von Mises-Fisher mixture with the two other opinions as its prior, as TransCLIP
(Zanella, Gérin and Ben Ayed, NeurIPS 2024) does with Gaussians and the text alone. Sizes of classes are estimated
along with the means; nothing assumes them equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from psp_ray.core.probability import softmax
from psp_ray.core.records import Float32Array, Float64Array, Int32Array, Int64Array, TextState
from psp_ray.posterior.accuracy import limits

TEACHER_SPREAD = 0.7
"""Standard deviation of the log of the teacher's weight before any label."""
FLAT = 0.1
"""Mass, in medians of what images get, that the graph spreads evenly over the classes."""
UNHEARD = 2.0
"""Mass, in medians of what images get, that the graph keeps for classes without a label, under a perfect teacher."""
GRAPH_WEIGHT = 0.45
"""What the graph's log shares count at one label a class, where it is as sure as the teacher is right."""
GRAPH_RANGE = (0.5, 2.5)
"""How far that may differ where one of them is much better."""
SURELY = 0.9
"""How sure it must be that the teacher is right at least as often as it is taken to be, when it speaks for doubt."""
TOLD = (0.05, 0.2)
"""How much more often than by chance the teacher must be right before its word against the graph counts, and counts
wholly."""
LEAST_BETTER = 0.02
"""The graph is never taken to be better than chance by less than this share of what is left to be better."""
DOUBT_POWER = 4.0
"""How fast the graph loses its weight where it is right less often than it is sure."""
BIAS_SHARE = 0.5
"""How much of the teacher's preference for some classes is taken back, in shares of its log."""
SIZE_PRIOR = 2.0
"""Images that each class is sure to have, when sizes are estimated."""
BIAS_FLOOR = 0.1
"""Of an even share: a class that the teacher never names is not blown up without bound."""
_CHUNK = 1 << 22  # entries of a probability matrix in work at a time


def log_likelihood(logits: Float64Array, labels: Int32Array) -> float:
    """Sum of `log softmax(logits)` (m, C) at `labels` (m,)."""
    top = logits.max(axis=1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return float((logits[np.arange(len(labels)), labels] - total).sum())


def fitted_scale(logits: Float64Array, labels: Int32Array, typical: float, spread: float) -> tuple[float, float]:
    """The factor on `logits` (m, C) that best predicts `labels` (m,), and the log likelihood there, prior included.

    Before any label its log is Gaussian around that of `typical`, with standard deviation `spread`.
    """
    logits = np.asarray(logits, np.float64)
    # `log_likelihood`, bit for bit, with what no factor changes taken out (factors are positive), in one work table.
    highest, told = logits.max(axis=1), logits[np.arange(len(labels)), labels]
    work = np.empty_like(logits)

    def loss(log_scale: float) -> float:
        prior = 0.5 * ((log_scale - np.log(typical)) / spread) ** 2
        factor = np.exp(log_scale)
        top = factor * highest
        np.subtract(np.multiply(factor, logits, out=work), top[:, None], out=work)
        total = top + np.log(np.exp(work, out=work).sum(axis=1))
        return float(prior) - float((factor * told - total).sum())

    around = np.log(typical) + 4 * spread * np.array([-1.0, 1.0])
    found = scipy.optimize.minimize_scalar(
        loss, bounds=(around[0], around[1]), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x)), -float(found.fun)


def teacher_logits(encodings: Float32Array, text: TextState) -> Float32Array:
    """Logits (m, C) of encodings (m, d) under a teacher."""
    result: Float32Array = np.float32(text.logit_scale) * (encodings @ text.features.T)
    return result if text.bias is None else result + text.bias


def graph_opinion(masses: Float64Array) -> Float32Array:
    """Log shares (n, C) of the class `masses` (n, C) that reach each image, flat where little arrives."""
    total = masses.sum(axis=1, keepdims=True)
    extra = FLAT * float(np.median(total)) if len(total) else 0.0
    extra = max(extra, 1e-12)
    n_classes = masses.shape[1]
    odds: Float32Array = np.log((masses + extra / n_classes) / (total + extra)).astype(np.float32)
    return odds


def unheard_odds(labels: Int32Array, n_classes: int, strength: float) -> Float32Array:
    """What is added to the graph's log shares of classes (C,): more than 0 where no label speaks for a class.

    The graph is silent about a class without a label, and the more it is trusted, the louder its silence would speak
    against that class. So such classes share a mass of `UNHEARD strength^2 (1 - C/m)` medians: where hardly a label
    reaches, they are as likely as the labeled ones, and the teacher says which. A teacher of little `strength` can't,
    and before there are as many labels as classes a class without one is nothing to wonder at (ours; docs/method.md).
    """
    odds = np.zeros(n_classes, np.float32)
    silent = np.bincount(labels, minlength=n_classes) == 0
    if silent.any() and len(labels) > n_classes:
        mass = UNHEARD * strength**2 * (1.0 - n_classes / len(labels))
        odds[silent] = np.log1p(mass * n_classes / (FLAT * silent.sum()))
    return odds


def teacher_strength(logits: Float64Array, labels: Int32Array) -> float:
    """Share of images that a teacher names right, from its `logits` (m, C) of bought ones; its own confidence counts
    like two labels more."""
    right = float((logits.argmax(axis=1) == labels).sum())
    sure = float(softmax(logits).max(axis=1).mean())
    return (right + 2.0 * sure) / (len(labels) + 2.0)


def graph_weight(odds: Float32Array, strength: float, n_labels: int) -> float:
    """What the graph's log shares `odds` (n, C) count before evidence.

    They can be trusted the more, the more labels a class has; and while it has one or two, the more, the surer the
    graph is compared with the `strength` of the teacher. Both forms were read off the weights that would have been best
    on 10 pools (0.25 to 1 at one label a class, 1 to 2 at eight).
    """
    return graph_weight_of(sureness(odds), strength, n_labels / max(odds.shape[1], 1))


def sureness(odds: Float32Array) -> float:
    """How sure the graph is on average of the class it names, by its log shares (n, C)."""
    return float(np.exp(odds.max(axis=1)).mean())


def graph_weight_of(sure: float, strength: float, a_class: float) -> float:
    """`graph_weight` by how `sure` the graph is on average, and labels a class."""
    ratio = float(np.clip(sure / max(strength, 1e-6), *GRAPH_RANGE))
    return float(GRAPH_WEIGHT * a_class**0.75 * ratio ** (1.0 / max(a_class, 1.0)))


def surely_right(hits: NDArray[np.bool_], rounds: Int64Array) -> float:
    """Lower limit of the share of images that a teacher names right: `hits` (m,) of labels bought in `rounds` (m,).

    Query sets are drawn to what is hard, later ones more than the first, while the teacher stays the same: so the best
    counts of the limits that the labels of the first 1, 2, ... rounds give. Each of them holds as often as `SURELY`
    says, were its labels drawn by chance; the best of many less often.
    """
    ends = np.flatnonzero(np.append(np.diff(rounds) != 0, True)) + 1
    found = np.cumsum(hits)[ends - 1]
    return max(limits(int(right), int(asked), 2 * SURELY - 1)[0] for right, asked in zip(found, ends, strict=True))


def graph_doubt(
    teachers: Sequence[tuple[Int64Array, Int64Array]],
    heard: Int64Array,
    labels: Int32Array,
    rounds: Int64Array,
    sure: float,
) -> float:
    """A factor in (0, 1] on the graph's weight: below 1 where it agrees with the teacher too seldom to be right.

    The graph is as `sure` as its labels lie apart, be they spread along the classes or along something else that images
    differ by (a background, a style): then a label a class makes it sure and wrong. Before later labels can tell, the
    teacher does. If it is right on a share a of the images and the graph on g, c is how often they would agree by
    chance, and they err apart from each other, they agree on `c + (a - c) k` of them, where `k = (g - c) / (1 - c)` is
    how much better than chance the graph is (Cohen's kappa, 1960); errors that they have in common only add to that. So
    k is no more than `(agreed - c) / (a - c)`; a is a lower limit, which speaks for the graph. Where that is less than
    the graph makes itself out to be, the factor is a power of their ratio; a teacher that isn't surely better than
    chance has no say (`TOLD`). Ours; docs/method.md.

    Args:
        teachers: the classes (n,) that each gives to images without a label, and those (m,) of bought ones, given
            without a look at their labels; who is right most surely has the say.
        heard: (n,) the graph's classes.
        labels: (m,) of the bought ones, in `rounds` (m,), not falling.
        sure: how sure the graph is on average.
    """
    right, said = max(
        ((surely_right(told == labels, rounds), said) for said, told in teachers), key=lambda found: found[0]
    )
    asked = np.isin(said, labels)  # where no label speaks for the teacher's class, the graph can't agree
    if not asked.any():
        return 1.0
    said, heard = said[asked], heard[asked]
    n_classes = int(max(said.max(), heard.max())) + 1
    chance = float(np.bincount(said, minlength=n_classes) @ np.bincount(heard, minlength=n_classes)) / len(said) ** 2
    trust = float(np.clip((right - chance - TOLD[0]) / (TOLD[1] - TOLD[0]), 0.0, 1.0))
    if trust == 0.0:
        return 1.0
    agreed = float((said == heard).mean())
    most = max((agreed - chance) / (right - chance), LEAST_BETTER)
    claimed = max((sure - chance) / (1.0 - chance), LEAST_BETTER)
    return float(min(most / claimed, 1.0) ** (DOUBT_POWER * trust))


@dataclass(frozen=True)
class ClassMeans:
    """`means` (C, d) float32, unit or zero; `bias` (C,) float32 log odds that correct the teacher's class sizes."""

    means: Float32Array
    bias: Float32Array
    sharpness: float

    def logits(self, places: Float32Array) -> Float32Array:
        """Log odds (m, C) of places (m, d)."""
        result: Float32Array = np.float32(self.sharpness) * (places @ self.means.T) + self.bias
        return result


def class_means(
    prior: Float32Array,
    teacher: Float32Array,
    places: Float32Array,
    rows: Int64Array,
    labels: Int32Array,
    *,
    sharpness: float,
    label_weight: float,
    steps: int,
    preferred: Float64Array | None = None,
) -> tuple[ClassMeans, Float32Array]:
    """Means of the classes, and the log odds (n, C) of all images that follow from them and the prior.

    Args:
        prior: (n, C) log odds before the means have a say: teacher and graph.
        teacher: (n, C) the teacher's share in them; its mean probabilities tell which classes it prefers.
        places: (n, d) float32 unit vectors.
        rows, labels: (m,) images whose class was bought; each counts `label_weight` images that are sure.
        steps: times that the means are estimated.
        preferred: (C,) the mean of the teacher's probabilities, where it is known already.
    """
    n, n_classes = prior.shape
    preferred = mean_probability(teacher) if preferred is None else preferred
    logits = prior
    for _ in range(steps):
        share = softmax(logits)
        sizes = (share.sum(axis=0, dtype=np.float64) + SIZE_PRIOR) / (n + SIZE_PRIOR * n_classes)
        bias = BIAS_SHARE * (np.log(sizes) - np.log(preferred + BIAS_FLOOR / n_classes))
        share[rows] = 0.0
        share[rows, labels] = label_weight
        sums = share.T @ places
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        means = np.divide(sums, length, out=np.zeros_like(sums), where=length > 1e-9)
        found = ClassMeans(means, bias.astype(np.float32), sharpness)
        logits = prior + found.logits(places)
    return found, logits


def mean_probability(logits: Float32Array) -> Float64Array:
    """Mean over the rows of their probabilities (C,)."""
    total = np.zeros(logits.shape[1])
    height = max(1, _CHUNK // logits.shape[1])
    for at in range(0, len(logits), height):
        total += softmax(logits[at : at + height]).sum(axis=0, dtype=np.float64)
    return total / max(len(logits), 1)


def add_sparse(table: Float32Array, sparse: scipy.sparse.csr_array, factor: float) -> None:
    """Add `factor` times a sparse matrix to `table` (m, C), in place."""
    sparse.sum_duplicates()
    row = np.repeat(np.arange(sparse.shape[0]), np.diff(sparse.indptr))
    table[row, sparse.indices] += np.float32(factor) * sparse.data
