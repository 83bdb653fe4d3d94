"""From actions to a query set: selection probabilities and an exact draw of distinct samples, streamed in blocks.

Gumbel-top-k: the k largest of `log a_i + Gumbel_i` are a draw of k distinct samples by successive sampling without
replacement (Kool, van Hoof and Welling, "Stochastic beams and where to find them", ICML 2019). Given the (k+1)-th
perturbed key, each sample's inclusion is an independent event of known probability, as in priority sampling.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from psp_ray.core.records import Float64Array, Int64Array, UInt64Array


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


class TopK:
    """Running k largest (perturbed) keys over blocks; equal keys are ordered by the samples' own noise keys."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.positions = np.zeros(0, np.int64)
        self.log_prob = np.zeros(0, np.float64)
        self.perturbed = np.zeros(0, np.float64)
        self.keys = np.zeros(0, np.uint64)

    def add(self, positions: Int64Array, log_prob: Float64Array, perturbed: Float64Array, keys: UInt64Array) -> None:
        """Take in a block: positions, log probabilities, perturbed keys and sample keys, each (m,)."""
        if len(self.perturbed) == self.k and self.k:
            near = perturbed >= self.perturbed[-1]  # the rest can't enter
            positions, log_prob, perturbed, keys = (
                positions[near],
                log_prob[near],
                perturbed[near],
                keys[near],
            )
        perturbed = np.concatenate([self.perturbed, perturbed])
        keys = np.concatenate([self.keys, keys])
        order = np.lexsort((keys, -perturbed))[: self.k]
        self.perturbed, self.keys = perturbed[order], keys[order]
        self.positions = np.concatenate([self.positions, positions])[order]
        self.log_prob = np.concatenate([self.log_prob, log_prob])[order]


def draw(
    blocks: Iterable[tuple[Int64Array, Float64Array, Float64Array, UInt64Array]], n_query: int
) -> tuple[Int64Array, Float64Array, float]:
    """Draw `n_query` distinct samples from blocks of (positions, log a, noise, sample keys).

    `noise` are standard Gumbel draws, or zeros for plain top-k. Returns positions (n_query,) and log a (n_query,) in
    draw order, and the (n_query+1)-th perturbed key (NaN if the pool holds no more than n_query).
    """
    top = TopK(n_query + 1)
    for positions, log_prob, noise, keys in blocks:
        top.add(positions, log_prob, log_prob + noise, keys)
    next_key = float(top.perturbed[n_query]) if len(top.perturbed) > n_query else float("nan")
    return top.positions[:n_query], top.log_prob[:n_query], next_key


def entropy(log_prob: Float64Array) -> float:
    """Entropy in nats of probabilities given by their logs (m,); they need not sum to 1 (they are normalized)."""
    log_prob = np.asarray(log_prob, np.float64)
    sums = LogSumExp()
    sums.add(log_prob)
    log_a = log_prob - sums.value
    a = np.exp(log_a)
    return float(-np.sum(np.where(a > 0, a * log_a, 0.0)))
