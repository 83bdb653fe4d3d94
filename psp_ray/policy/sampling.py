"""From actions to a query set: selection probabilities and an exact draw of distinct samples, streamed in blocks.

Gumbel-top-k: the k largest of `log a_i + Gumbel_i` are a draw of k distinct samples by successive sampling without
replacement (Kool, van Hoof and Welling, "Stochastic beams and where to find them", ICML 2019). Given the (k+1)-th
perturbed key, each sample's inclusion is an independent event of known probability, as in priority sampling.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from psp_ray.core.records import Float64Array, Int64Array, UInt64Array
from psp_ray.core.topk import StreamingTopK


class LogSumExp:
    """Running log of a sum of exponentials over blocks, in float64 and in the order of `add`."""

    def __init__(self) -> None:
        self.top = -np.inf
        self.total = 0.0
        self.count = 0

    def add(self, logits: Float64Array) -> None:
        """Take in the logits (m,) of the next block."""
        if not len(logits):
            return
        top = float(np.max(logits))
        if top > self.top:
            self.total = self.total * float(np.exp(self.top - top)) if self.count else 0.0
            self.top = top
        self.total += float(np.sum(np.exp(logits - self.top)))
        self.count += len(logits)

    @property
    def value(self) -> float:
        """log sum exp of all logits so far; -inf if there were none."""
        return self.top + float(np.log(self.total)) if self.count else -np.inf


def log_probabilities(logits: Float64Array, normalizer: float) -> Float64Array:
    """log a_i of `softmax(logits)`; logits (m,) of a block, `normalizer` their pool's log-sum-exp."""
    return np.asarray(logits, np.float64) - normalizer


Blocks = Iterable[tuple[Int64Array, Float64Array, Float64Array, UInt64Array]]


def draw(blocks: Blocks, n_query: int) -> tuple[Int64Array, Float64Array, float]:
    """Draw `n_query` distinct samples from blocks of (positions, log a, noise, sample keys), in order of position.

    `noise` are standard Gumbel draws, or zeros for plain top-k; equal sums go by the samples' keys. Returns positions
    (n_query,) and log a (n_query,) in draw order, and the (n_query+1)-th perturbed key (NaN if the pool holds no more
    than n_query).
    """
    top = StreamingTopK(1, n_query + 1)
    kept = np.zeros(0, np.int64)
    kept_log_prob = np.zeros(0, np.float64)
    for positions, log_prob, noise, keys in blocks:
        top.offer((log_prob + noise)[None, :], positions, keys)
        near = np.isin(np.concatenate([kept, positions]), top.result()[2])
        kept_log_prob = np.concatenate([kept_log_prob, log_prob])[near]
        kept = np.concatenate([kept, positions])[near]
    _, perturbed, chosen = top.result()
    next_key = float(perturbed[n_query]) if len(perturbed) > n_query else float("nan")
    return chosen[:n_query], kept_log_prob[np.searchsorted(kept, chosen[:n_query])], next_key


def entropy(log_prob: Float64Array) -> float:
    """Entropy in nats of probabilities given by their logs (m,); they need not sum to 1 (they are normalized)."""
    log_prob = np.asarray(log_prob, np.float64)
    sums = LogSumExp()
    sums.add(log_prob)
    log_a = log_prob - sums.value
    a = np.exp(log_a)
    return float(-np.sum(np.where(a > 0, a * log_a, 0.0)))
