"""TypiClust: the most typical sample of every cluster that has no label yet."""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition._baseline import Baseline
from psp_ray.acquisition._cluster import Coverage, cluster, mean_neighbor_distance
from psp_ray.acquisition.base import register
from psp_ray.config.acquisition import TypiClustSettings
from psp_ray.core import noise
from psp_ray.core.pool import read_blocks
from psp_ray.core.records import Int64Array, PoolReader, PoolState


@register("typiclust", TypiClustSettings)
class TypiClust(Baseline):
    """Clusters labeled and unlabeled samples, then takes the densest point of the largest clusters without a label.

    Source: Hacohen, Dekel and Weinshall, "Active learning on a budget: opposite strategies suit high and low budgets"
    (ICML 2022), algorithm 1: min(labeled + n_query, 500) clusters by k-means; typicality is the inverse
    mean distance to the min(20, half the cluster) nearest unlabeled neighbors within the cluster; clusters of at most
    5 samples are passed over. Here the features are CLIP's, small clusters are served last instead of never, a
    cluster with fewest labels comes first whenever one is chosen, and in pools of more than 20,000 samples centers are
    learned from a part. Ties go to the lower position. The prompt has no say in it.

    O(n clusters d) time for the clusters and O(m^2 d) for each cluster of m samples that is served (m up to 10,000).
    """

    name = "typiclust"

    def __init__(self, pool: PoolReader, settings: TypiClustSettings | None = None) -> None:
        super().__init__(pool, settings or TypiClustSettings.model_validate({}))

    def choose(self, state: PoolState) -> Int64Array:
        settings = self.settings
        everyone = np.union1d(state.unlabeled, state.labeled)
        free = np.isin(everyone, state.unlabeled)
        count = min(len(state.labeled) + state.n_query, settings.typiclust_clusters)
        seed = noise.stream_key(state.seed, "typiclust", state.round)
        found = cluster(self.pool, everyone, count, seed)
        coverage = Coverage(found.labels, free, ~free, settings.typiclust_smallest)
        chosen: list[int] = []
        while len(chosen) < state.n_query:
            index = coverage.next()
            members = everyone[(found.labels == index) & free]
            best = int(members[self._typicality(members, seed).argmax()])
            chosen.append(best)
            free[np.searchsorted(everyone, best)] = False
            coverage.take(index)
        return np.asarray(chosen, np.int64)

    def _typicality(self, members: Int64Array, seed: int) -> np.ndarray:
        blocks = list(read_blocks(self.pool, members))
        x = np.concatenate([block.features for block in blocks])
        keys = np.concatenate([block.keys for block in blocks])
        neighbors = min(self.settings.typiclust_neighbors, max(1, len(members) // 2))
        return -mean_neighbor_distance(x, neighbors, keys, seed)
