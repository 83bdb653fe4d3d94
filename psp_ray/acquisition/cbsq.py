"""CB+SQ: a cluster-balanced batch in a class-guided space, without samples that the model knows."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np

from psp_ray.acquisition.base import STRATEGIES
from psp_ray.acquisition.strategy import Strategy
from psp_ray.acquisition.toolkit.clusters import Clusters, Queues, cluster
from psp_ray.config.acquisition import CBSQSettings
from psp_ray.core import noise
from psp_ray.core.pool import class_embeddings, read_blocks, read_rows
from psp_ray.core.probability import class_probabilities
from psp_ray.core.records import Float32Array, Float64Array, Int64Array, PoolState


@STRATEGIES.register("cbsq")
class CBSQ(Strategy):
    """Class-guided clustering with cluster-balanced acquisition (CB), then selective querying (SQ).

    Source: Kim et al., "Active prompt learning with vision-language model priors" (TMLR 2025, arXiv 2411.16722) and its
    released code. k-means runs over `[f_i, sum_c p_ic T_c]`, brought to unit length: n_query clusters at first, later
    4 n_query and one for each label. The cluster with the smallest share of labeled samples is served next, of equals
    the largest, and gives its unlabeled sample nearest to the center. A sample whose confidence reaches the mean
    confidence of the labeled samples of the class that it is predicted as is not asked about; classes without labels
    have no such threshold.

    Differs: the paper keeps the budget that a sure sample frees, and learns from its predicted class as from a label;
    here a round buys n_query labels as it does for every other strategy, so that the budget goes to the next cluster,
    and pseudo-labels are the business of `--self-training`. A cluster may be served twice in a round (the code takes
    one and loses the rest). If all others are spent, sure samples are taken, least sure first. The numbers of clusters
    are the code's where a round buys as many labels as there are classes; `cbsq_clusters` limits them. In pools of
    more than 20,000 samples centers are learned from a part.

    O(n (clusters d + C d)) time; memory 40,000 * d * 4 bytes and a block.
    """

    name = "cbsq"
    settings_class = CBSQSettings
    settings: CBSQSettings

    def choose(self, state: PoolState) -> Int64Array:
        embeddings = class_embeddings(state.text, self.pool)
        everyone = np.union1d(state.unlabeled, state.labeled)
        free = np.isin(everyone, state.unlabeled)
        found = self._clusters(state, embeddings, everyone)
        excess = np.full(len(everyone), -1.0)  # confidence beyond the threshold
        if self.settings.cbsq_selective and len(state.labeled):
            excess[free] = self._excess(state, embeddings)
        chosen: list[int] = []
        sure: list[int] = []
        for index in by_share(found, free):
            (chosen if excess[index] < 0 else sure).append(index)
            if len(chosen) == state.n_query:
                break
        chosen += sorted(sure, key=lambda index: (excess[index], index))[: state.n_query - len(chosen)]
        return everyone[np.asarray(chosen, np.int64)]

    def _clusters(self, state: PoolState, embeddings: Float32Array, everyone: Int64Array) -> Clusters:
        scale = state.text.logit_scale

        def guided(features: Float32Array) -> Float32Array:
            text = class_probabilities(features, embeddings, scale).astype(np.float32) @ embeddings
            both = np.concatenate([features, text], axis=1)
            norms = np.linalg.norm(both, axis=1, keepdims=True)
            return np.asarray(both / np.maximum(norms, np.float32(1e-12)), np.float32)

        count = (
            self.settings.cbsq_multiple * state.n_query + len(state.labeled) if len(state.labeled) else state.n_query
        )
        seed = noise.stream_key(state.seed, "cbsq", state.round)
        return cluster(self.pool, everyone, min(count, self.settings.cbsq_clusters), seed, guided)

    def _excess(self, state: PoolState, embeddings: Float32Array) -> Float64Array:
        """Confidence minus the threshold of the predicted class, for each unlabeled sample (n,)."""
        labeled = class_probabilities(read_rows(self.pool, state.labeled), embeddings, state.text.logit_scale)
        threshold = thresholds(labeled, np.asarray(state.labels, np.int64))
        parts = []
        for block in read_blocks(self.pool, state.unlabeled):
            p = class_probabilities(block.features, embeddings, state.text.logit_scale)
            parts.append(p.max(axis=1) - threshold[p.argmax(axis=1)])
        return np.concatenate(parts)


def by_share(found: Clusters, free: np.ndarray) -> Iterator[int]:
    """Indices of all `free` (n,) samples, each from the cluster with the smallest share of served samples.

    Served are the samples that aren't free, and those that came before. Of equal shares the largest cluster is next,
    of equal sizes the lower one.
    """
    sizes = np.bincount(found.labels).tolist()
    served = np.bincount(found.labels[~free], minlength=len(sizes)).tolist()
    queues = Queues(found, free)
    heap = [(served[c] / size, -size, c) for c, size in enumerate(sizes) if queues.left(c)]
    heapq.heapify(heap)
    while heap:
        _, size, c = heapq.heappop(heap)
        yield queues.pop(c)
        served[c] += 1
        if queues.left(c):
            heapq.heappush(heap, (served[c] / -size, size, c))


def thresholds(p: Float64Array, labels: Int64Array) -> Float64Array:
    """Per class (C,): mean confidence of the labeled samples of the class, whatever they are predicted as; else inf.

    `p` (m, C): class probabilities of the labeled samples, `labels` (m,).
    """
    counts = np.bincount(labels, minlength=p.shape[1])
    result = np.full(p.shape[1], np.inf)
    np.divide(np.bincount(labels, weights=p.max(axis=1), minlength=p.shape[1]), counts, out=result, where=counts > 0)
    return result
