"""DropQuery: samples whose prediction does not survive dropout, one for each of their clusters."""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition.base import STRATEGIES
from psp_ray.acquisition.strategy import Strategy
from psp_ray.acquisition.toolkit.clusters import cluster, representatives
from psp_ray.config.acquisition import DropQuerySettings
from psp_ray.core import noise
from psp_ray.core.pool import class_embeddings, read_blocks
from psp_ray.core.records import Int64Array, PoolState, UInt64Array


@STRATEGIES.register("dropquery")
class DropQuery(Strategy):
    """Candidates are samples whose class changes in more than half of the passes with dropout on their feature.

    Source: Gupte et al., "Revisiting active learning in the era of vision foundation models" (TMLR 2024, arXiv
    2401.14555), section 5: 3 passes; released code: dropout of 0.75 before a linear classifier. Of k-means with n_query
    clusters over the candidates, the sample nearest to each center is taken. The first batch, without labels, is the
    same of all samples (the paper's centroid initialization).

    Differs: the classifier is the prompt, `argmax_c (mask * f_i) . T_c`, without the batch normalization of the
    released probe. Where there are fewer candidates than queries, or clusters stay empty (the released code fails),
    those with most changes come next, equal ones by their noise keys.

    O(n (C + passes) d) time, O(m n_query d) for k-means over m candidates; memory one block, 20,000 * d * 4 bytes.
    """

    name = "dropquery"
    settings_class = DropQuerySettings
    settings: DropQuerySettings

    def choose(self, state: PoolState) -> Int64Array:
        changes, keys = self._changes(state)
        candidates = np.arange(len(changes))
        if len(state.labeled):
            candidates = np.flatnonzero(2 * changes > self.settings.dropquery_passes)
        chosen = np.zeros(0, np.int64)
        if len(candidates):
            seed = noise.stream_key(state.seed, "dropquery", state.round)
            found = cluster(self.pool, state.unlabeled[candidates], min(state.n_query, len(candidates)), seed)
            chosen = candidates[representatives(found)]
        rest = np.lexsort((keys, -changes))
        rest = rest[~np.isin(rest, chosen)][: state.n_query - len(chosen)]
        return np.asarray(state.unlabeled[np.concatenate([chosen, rest])], np.int64)

    def _changes(self, state: PoolState) -> tuple[Int64Array, UInt64Array]:
        """In how many passes each unlabeled sample's class changes (n,), and the samples' keys (n,)."""
        embeddings = class_embeddings(state.text, self.pool)
        counts, keys = [], []
        for block in read_blocks(self.pool, state.unlabeled):
            usual = (block.features @ embeddings.T).argmax(axis=1)
            changed = np.zeros(len(usual), np.int64)
            for number in range(self.settings.dropquery_passes):
                seed = noise.stream_key(state.seed, f"dropquery-{number}", state.round)
                kept = mask(block.keys, block.features.shape[1], self.settings.dropquery_rate, seed)
                changed += ((block.features * kept) @ embeddings.T).argmax(axis=1) != usual
            counts.append(changed)
            keys.append(block.keys)
        return np.concatenate(counts), np.concatenate(keys)


def mask(keys: UInt64Array, width: int, rate: float, seed: int) -> np.ndarray:
    """What dropout keeps (m, width): each entry with probability 1 - rate, by noise on the samples' `keys` (m,).

    Four entries share a word of noise, so that rates are exact to 2^-16.
    """
    words = [noise.bits(seed, "dropout", keys, draw=draw) for draw in range(-(-width // 4))]
    lanes = np.ascontiguousarray(np.stack(words, axis=1).astype("<u8")).view("<u2")
    return np.asarray(lanes[:, :width] >= round(rate * 2**16))
