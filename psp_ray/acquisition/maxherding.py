"""MaxHerding: cover the pool by a smooth kernel, greedily."""

from __future__ import annotations

from psp_ray.acquisition.base import STRATEGIES
from psp_ray.acquisition.strategy import Strategy
from psp_ray.acquisition.toolkit.cover import Cover, gaussian, greedy, read_part
from psp_ray.config.acquisition import MaxHerdingSettings
from psp_ray.core.pool import read_rows
from psp_ray.core.records import Int64Array, PoolState


@STRATEGIES.register("maxherding")
class MaxHerding(Strategy):
    """Each sample is the one that raises `mean_i max_s exp(-|f_i - f_s|^2 / h^2)` most, labeled samples included in s.

    Source: Bae, Noh and Sutherland, "Generalized coverage for more robust low-budget active learning" (ECCV 2024, arXiv
    2407.12212), algorithm 1, with its Gaussian kernel at h = 1 on features of unit length. Labeled samples are
    covered by themselves, so that only unlabeled ones count. Differs: the features are CLIP's instead of a
    self-supervised network's; the greedy algorithm is lazy, which changes nothing but its time; in pools of
    more than 10,000 unlabeled samples so many are drawn to be covered and chosen from; ties go by the samples' noise
    keys. The prompt has no say in it.

    O(m^2 d) time for m samples up to 10,000; memory m d * 4 bytes and m * 512 kernel values.
    """

    name = "maxherding"
    settings_class = MaxHerdingSettings
    settings: MaxHerdingSettings

    def choose(self, state: PoolState) -> Int64Array:
        part = read_part(self.pool, state.unlabeled, state.seed, state.n_query)
        cover = Cover(part.features, gaussian(self.settings.maxherding_bandwidth))
        cover.add(read_rows(self.pool, state.labeled))
        return part.positions[greedy(cover, state.n_query, part.keys)]
