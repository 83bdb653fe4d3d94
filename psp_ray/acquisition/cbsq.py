"""CB+SQ: a cluster-balanced batch in a class-guided space, without samples that the model knows."""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition._baseline import Baseline
from psp_ray.acquisition._cluster import Coverage, cluster
from psp_ray.acquisition.base import register
from psp_ray.config.acquisition import CBSQSettings
from psp_ray.core import noise
from psp_ray.core.pool import class_embeddings, read_blocks, read_rows
from psp_ray.core.probability import class_probabilities
from psp_ray.core.records import Float32Array, Float64Array, Int64Array, PoolReader, PoolState


@register("cbsq", CBSQSettings)
class CBSQ(Baseline):
    """Class-guided clustering (CB), then selective querying (SQ).

    Source: Kim et al., "Active prompt learning with vision-language model priors" (TMLR; arXiv 2411.16722), from the
    abstract and public summaries: images are clustered by class-guided features `(f_i + sum_c p_ic T_c) / 2`, queries
    are balanced over the clusters, and a query is saved where the model is surer than an adaptive threshold of the
    class it predicts. Ours: min(labeled + n_query, 500) clusters by k-means; clusters with fewest labels come first,
    then large ones; of a cluster the sample nearest to its center is taken; the threshold of class c is the mean
    confidence of the labeled samples that the prompt rightly takes for c (none: no threshold). The paper saves the
    budget that a sure sample frees and uses its pseudo-label; here the budget goes to the next cluster, and
    pseudo-labels are the business of `--self-training`. If all others are spent, sure samples are taken, least sure
    first.

    O(n (clusters d + C d)) time; memory 20,000 * d * 4 bytes and a block.
    """

    name = "cbsq"

    def __init__(self, pool: PoolReader, settings: CBSQSettings | None = None) -> None:
        super().__init__(pool, settings or CBSQSettings.model_validate({}))

    def choose(self, state: PoolState) -> Int64Array:
        embeddings = class_embeddings(state.text, self.pool)
        scale = state.text.logit_scale

        def guided(features: Float32Array) -> Float32Array:
            p = class_probabilities(features, embeddings, scale).astype(np.float32)
            return (features + p @ embeddings) * np.float32(0.5)

        everyone = np.union1d(state.unlabeled, state.labeled)
        unlabeled = np.isin(everyone, state.unlabeled)
        count = min(len(state.labeled) + state.n_query, self.settings.cbsq_clusters)
        seed = noise.stream_key(state.seed, "cbsq", state.round)
        found = cluster(self.pool, everyone, count, seed, guided)
        excess = np.full(len(everyone), -1.0)  # confidence beyond the threshold
        if self.settings.cbsq_selective:
            excess[unlabeled] = self._excess(state, embeddings)
        asked = unlabeled & (excess < 0)
        coverage = Coverage(found.labels, asked, ~unlabeled)
        order = np.lexsort((found.distances, found.labels))
        order = order[asked[order]]
        starts = np.searchsorted(found.labels[order], np.arange(len(coverage.sizes)))
        chosen: list[int] = []
        while len(chosen) < state.n_query and (index := coverage.next()) >= 0:
            chosen.append(int(everyone[order[starts[index]]]))
            starts[index] += 1
            coverage.take(index)
        if len(chosen) < state.n_query:
            sure = np.flatnonzero(unlabeled & ~asked)
            sure = sure[np.lexsort((sure, excess[sure]))]
            chosen.extend(everyone[sure[: state.n_query - len(chosen)]].tolist())
        return np.asarray(chosen, np.int64)

    def _excess(self, state: PoolState, embeddings: Float32Array) -> Float64Array:
        """Confidence minus the threshold of the predicted class, for each unlabeled sample; -1 without threshold."""
        threshold = thresholds(
            class_probabilities(read_rows(self.pool, state.labeled), embeddings, state.text.logit_scale)
            if len(state.labeled)
            else np.zeros((0, len(embeddings))),
            np.asarray(state.labels, np.int64),
        )
        parts = []
        for block in read_blocks(self.pool, state.unlabeled):
            p = class_probabilities(block.features, embeddings, state.text.logit_scale)
            predicted = p.argmax(axis=1)
            over = p[np.arange(len(p)), predicted] - threshold[predicted]
            parts.append(np.where(np.isinf(threshold[predicted]), -1.0, over))
        return np.concatenate(parts)


def thresholds(p: Float64Array, labels: Int64Array) -> Float64Array:
    """Per class (C,): mean confidence of the labeled samples rightly predicted as it; inf where there are none.

    `p` (m, C): class probabilities of the labeled samples, `labels` (m,).
    """
    n_classes = p.shape[1]
    right = p.argmax(axis=1) == labels if len(p) else np.zeros(0, bool)
    counts = np.bincount(labels[right], minlength=n_classes)
    sums = np.bincount(labels[right], weights=p[right, labels[right]], minlength=n_classes)
    result = np.full(n_classes, np.inf)
    np.divide(sums, counts, out=result, where=counts > 0)
    return result
