"""k-means: the sample nearest to the center of every cluster that has no label yet."""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition.base import STRATEGIES
from psp_ray.acquisition.strategy import Strategy
from psp_ray.acquisition.toolkit.clusters import Coverage, Queues, cluster
from psp_ray.config.acquisition import KMeansSettings
from psp_ray.core import noise
from psp_ray.core.records import Int64Array, PoolState


@STRATEGIES.register("kmeans")
class KMeans(Strategy):
    """Clusters labeled and unlabeled samples, and buys what lies nearest to the centers of clusters without a label.

    Source: representative sampling by k-means as in Xu et al., "Representative sampling for text classification using
    support vector machines" (ECIR 2003), and as the centroid start of Gupte et al. (TMLR 2024, arXiv 2401.14555).
    Labels are accounted for by their number: of labeled + n_query clusters at least n_query hold no label, and the
    largest of these are served, so that the first batch is one sample of each of n_query clusters. Where there are
    fewer (k-means is capped, or copies leave clusters empty), the cluster with fewest labels comes next.
    The prompt has no say in it. Ties go to the lower position.

    O(n clusters d) time; memory 20,000 * d * 4 bytes and a block.
    """

    name = "kmeans"
    settings_class = KMeansSettings
    settings: KMeansSettings

    def choose(self, state: PoolState) -> Int64Array:
        everyone = np.union1d(state.unlabeled, state.labeled)
        free = np.isin(everyone, state.unlabeled)
        count = min(len(state.labeled) + state.n_query, self.settings.kmeans_clusters)
        found = cluster(self.pool, everyone, count, noise.stream_key(state.seed, "kmeans", state.round))
        queues = Queues(found, free)
        coverage = Coverage(found.labels, free, ~free)
        chosen: list[int] = []
        while len(chosen) < state.n_query:
            index = coverage.next()
            chosen.append(queues.pop(index))
            coverage.take(index)
        return everyone[np.asarray(chosen, np.int64)]
