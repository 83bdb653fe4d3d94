"""MaxHerding: cover the pool by a smooth kernel, greedily."""

from __future__ import annotations

from psp_ray.acquisition._baseline import Baseline, read_rows
from psp_ray.acquisition._cover import Cover, gaussian, greedy, read_part
from psp_ray.acquisition.base import register
from psp_ray.config.acquisition import MaxHerdingSettings
from psp_ray.core.records import Int64Array, PoolReader, PoolState


@register("maxherding", MaxHerdingSettings)
class MaxHerding(Baseline):
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

    def __init__(self, pool: PoolReader, settings: MaxHerdingSettings | None = None) -> None:
        super().__init__(pool, settings or MaxHerdingSettings.model_validate({}))

    def choose(self, state: PoolState) -> Int64Array:
        part = read_part(self.pool, state.unlabeled, state.seed, state.n_query)
        cover = Cover(part.features, gaussian(self.settings.maxherding_bandwidth))
        cover.add(read_rows(self.pool, state.labeled))
        return part.positions[greedy(cover, state.n_query, part.keys)]
