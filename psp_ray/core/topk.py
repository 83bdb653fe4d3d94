"""The largest values of many groups at once, from a stream of blocks, with ties broken by position or by key."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.records import Float64Array, Int64Array, UInt64Array


class StreamingTopK:
    """For each of `groups` groups the `k` candidates of largest value among those offered.

    Equal values go by the keys given with them (the lower first), else by position; then blocks must be offered in
    order of position. Memory: groups * k entries, beside the block at hand.
    """

    def __init__(self, groups: int, k: int) -> None:
        self.groups, self.k = groups, k
        self.offered = 0
        """Candidates seen by each group (an upper bound: candidates of value -inf count too)."""
        self._group = np.zeros(0, np.int64)
        self._value: NDArray[Any] = np.zeros(0, np.float64)
        self._position = np.zeros(0, np.int64)
        self._tie: NDArray[Any] | None = None
        self._bar = np.full(groups, -np.inf)

    @property
    def truncated(self) -> bool:
        """Whether some group may have had more candidates than it kept."""
        return self.offered > self.k

    def offer(self, values: NDArray[Any], positions: Int64Array, keys: UInt64Array | None = None) -> None:
        """Offer candidates at `positions` (m,), ascending, with `values` (groups, m); -inf and NaN are never taken.

        `keys` (m,): what orders equal values, in every call or in none.
        """
        m = values.shape[1]
        self.offered += m
        if self.groups == 0 or m == 0 or self.k == 0:
            return
        if np.isnan(values).any():
            values = np.where(np.isnan(values), -np.inf, values)
        bar = self._bar[:, None].astype(values.dtype)
        # By position a later candidate must beat the k-th so far: on a tie the earlier one stays.
        hits = values > bar if keys is None else (values >= bar) & (values > -np.inf)
        if m > self.k and np.isneginf(self._bar).any():
            own_bar = np.partition(values, m - self.k, axis=1)[:, m - self.k]
            hits &= values >= own_bar[:, None]
        group, column = np.nonzero(hits)
        if len(group) == 0:
            return
        ties = positions if keys is None else keys
        tie = ties[column] if self._tie is None else np.concatenate([self._tie, ties[column]])
        group = np.concatenate([self._group, group])
        value = np.concatenate([self._value, values[hits]])
        position = np.concatenate([self._position, positions[column]])
        order = np.lexsort((tie, -value, group))
        group, value, position, tie = group[order], value[order], position[order], tie[order]
        keep = rank_in_group(group) < self.k
        self._group, self._value, self._position, self._tie = group[keep], value[keep], position[keep], tie[keep]
        last = np.flatnonzero(rank_in_group(self._group) == self.k - 1)
        self._bar[self._group[last]] = self._value[last]

    def result(self) -> tuple[Int64Array, Float64Array, Int64Array]:
        """(group, value, position), sorted by group, then falling value, then key or position."""
        return self._group, self._value.astype(np.float64), self._position


def rank_in_group(groups: Int64Array) -> Int64Array:
    """Place of each entry within its run of equal values; `groups` (n,) sorted."""
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]]) if len(groups) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(groups)])
    return np.arange(len(groups), dtype=np.int64) - np.repeat(starts, lengths)
