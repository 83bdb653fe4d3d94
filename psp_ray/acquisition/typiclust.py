"""TypiClust: the most typical sample of every cluster that has no label yet."""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition.base import STRATEGIES
from psp_ray.acquisition.strategy import Strategy
from psp_ray.acquisition.toolkit.clusters import cluster, mean_neighbor_distance
from psp_ray.config.acquisition import TypiClustSettings
from psp_ray.core import noise
from psp_ray.core.pool import read_blocks
from psp_ray.core.records import Float64Array, Int64Array, PoolState


@STRATEGIES.register("typiclust")
class TypiClust(Strategy):
    """Clusters labeled and unlabeled samples, then takes the densest point of the largest clusters without a label.

    Source: Hacohen, Dekel and Weinshall, "Active learning on a budget: opposite strategies suit high and low budgets"
    (ICML 2022), algorithm 1, and its released code: min(labeled + n_query, 500) clusters by k-means; clusters are put
    in order once, fewest labels first and of those the largest, and served in turn, again from the start when all have
    been; clusters of at most 5 samples are left out. Typicality is the inverse mean distance to the nearest neighbors
    among the cluster's samples that have no label and were not just chosen, 20 of them or half of these samples.

    Differs: the features are CLIP's; a cluster without samples left is passed over, and small clusters are served when
    nothing else is left (the released code fails in both cases); k-means is a full one where the code takes
    mini-batches above 50 clusters; neighbors' distances are the paper's, not squared as in the code; in pools of more
    than 20,000 samples centers are learned from a part. Ties go to the lower position. The prompt has no say in it.

    O(n clusters d) time for the clusters and O(m^2 d) for each cluster of m samples that is served (m up to 10,000).
    """

    name = "typiclust"
    settings_class = TypiClustSettings
    settings: TypiClustSettings

    def choose(self, state: PoolState) -> Int64Array:
        settings = self.settings
        everyone = np.union1d(state.unlabeled, state.labeled)
        free = np.isin(everyone, state.unlabeled)
        count = min(len(state.labeled) + state.n_query, settings.typiclust_clusters)
        seed = noise.stream_key(state.seed, "typiclust", state.round)
        labels = cluster(self.pool, everyone, count, seed).labels
        turns = turn_order(labels, free, state.n_query, settings.typiclust_smallest)
        chosen: list[int] = []
        for index in turns.tolist():
            members = everyone[(labels == index) & free]
            best = int(members[self._typicality(members, seed).argmax()])
            chosen.append(best)
            free[np.searchsorted(everyone, best)] = False
        return np.asarray(chosen, np.int64)

    def _typicality(self, members: Int64Array, seed: int) -> Float64Array:
        blocks = list(read_blocks(self.pool, members))
        x = np.concatenate([block.features for block in blocks])
        keys = np.concatenate([block.keys for block in blocks])
        neighbors = min(self.settings.typiclust_neighbors, max(1, len(members) // 2))
        return -mean_neighbor_distance(x, neighbors, keys, seed)


def turn_order(labels: Int64Array, free: np.ndarray, n_query: int, smallest: int) -> Int64Array:
    """The cluster that each of `n_query` queries goes to, in order.

    `labels` (n,): each sample's cluster; `free` (n,): who has no label. Clusters of at most `smallest` samples get
    what the others can't give.
    """
    sizes = np.bincount(labels)
    left = np.bincount(labels[free], minlength=len(sizes))
    order = np.lexsort((-sizes, sizes - left))  # fewest labels, then largest, then the lower cluster
    turns: list[int] = []
    for group in (order[sizes[order] > smallest], order[sizes[order] <= smallest]):
        for lap in range(int(left[group].max(initial=0))):
            turns.extend(group[left[group] > lap].tolist())
    return np.asarray(turns[:n_query], np.int64)
