"""ProbCover: balls of a radius at which neighbors are of one kind, placed where they cover most."""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition.base import STRATEGIES
from psp_ray.acquisition.strategy import Strategy
from psp_ray.acquisition.toolkit.clusters import cluster
from psp_ray.acquisition.toolkit.cover import Cover, greedy, read_part, top_hat
from psp_ray.acquisition.toolkit.distances import squared_distances, squared_norms
from psp_ray.config.acquisition import ProbCoverSettings
from psp_ray.core import noise
from psp_ray.core.pool import read_rows
from psp_ray.core.records import Float32Array, Float64Array, Int64Array, PoolReader, PoolState

_ROWS = 512


@STRATEGIES.register("probcover")
class ProbCover(Strategy):
    """Each sample is the one whose ball of radius delta holds most samples that no ball holds yet.

    Source: Yehuda, Dekel, Hacohen and Weinshall, "Active learning through a covering lens" (NeurIPS 2022, arXiv
    2205.11320), algorithm 1; balls around labeled samples count from the start. Delta is the largest radius at which
    95 % of the balls are pure, when k-means with as many clusters as classes stands in for the labels (section 4.2). A
    ball is pure up to the distance to the nearest sample of another cluster, so delta is a quantile of these
    distances and no grid is searched.

    Differs: the features are CLIP's instead of a self-supervised network's; in pools of more than 10,000 samples so
    many are drawn for radius and cover; ties go by the samples' noise keys, so that once everything is covered the rest
    of the batch is random (the released code would take a sample twice). The prompt has no say in it.

    O(m^2 d) time for m samples up to 10,000; memory m d * 4 bytes and m * 512 distances.
    """

    name = "probcover"
    settings_class = ProbCoverSettings
    settings: ProbCoverSettings

    def __init__(self, pool: PoolReader, settings: ProbCoverSettings | None = None) -> None:
        super().__init__(pool, settings)
        self._radius: tuple[int, int, Int64Array, float] | None = None

    def choose(self, state: PoolState) -> Int64Array:
        part = read_part(self.pool, state.unlabeled, state.seed, state.n_query)
        cover = Cover(part.features, top_hat(self.settings.probcover_delta or self._delta(state)))
        cover.add(read_rows(self.pool, state.labeled))
        return part.positions[greedy(cover, state.n_query, part.keys)]

    def _delta(self, state: PoolState) -> float:
        """The radius for this pool, which is the same in every round: computed once in a process."""
        everyone = np.union1d(state.unlabeled, state.labeled)
        last = self._radius
        if last is None or last[:2] != (state.seed, state.n_classes) or not np.array_equal(last[2], everyone):
            part = read_part(self.pool, everyone, state.seed)
            seed = noise.stream_key(state.seed, "probcover")
            kinds = cluster(self.pool, part.positions, state.n_classes, seed).labels
            found = pure_radius(part.features, kinds, self.settings.probcover_purity)
            self._radius = last = state.seed, state.n_classes, everyone, found
        return last[3]


def pure_radius(x: Float32Array, kinds: Int64Array, purity: float) -> float:
    """The largest radius at which the balls of a share `purity` of the samples hold samples of one kind only.

    `x` (m, d); `kinds` (m,). Balls are open. inf where all are of one kind. O(m^2 d) time.
    """
    limits = np.sort(other_kind(x, kinds))
    # m - k samples have a limit of at least limits[k]; balls end a little before it, by more than float32 is off
    return float(limits[int(np.floor((1.0 - purity) * len(limits) + 1e-9))]) * (1.0 - 1e-4)


def other_kind(x: Float32Array, kinds: Int64Array) -> Float64Array:
    """Distance (m,) of each sample to the nearest one of another kind; inf where there is none."""
    norms = squared_norms((x,))
    result = np.empty(len(x))
    for at in range(0, len(x), _ROWS):
        rows = slice(at, at + _ROWS)
        squares = squared_distances((x[rows],), norms[rows], (x,), norms)
        squares[kinds[rows, None] == kinds[None, :]] = np.inf
        result[rows] = np.sqrt(squares.min(axis=1))
    return result
