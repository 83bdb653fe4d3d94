"""A teacher's opinion on samples of the pool, streamed block by block over their views."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.errors import ConfigError
from psp_ray.core.records import FeatureBlock, Float16Array, Int64Array, PoolReader, TextState
from psp_ray.posterior.evidence import Posterior
from psp_ray.selftrain.ust import BlockScores, score_views
from psp_ray.selftrain.weighed import score_block

Views = Callable[[Int64Array], Float16Array]
"""Gives views (k, L, d) at sorted positions (k,), to use instead of the pool's.

Called once a block, in block order, with the block's scored positions; it must give the same answer when it is asked
again in the same round.
"""

Teacher = TextState | Posterior
"""Who gives an opinion: a prompt, or the posterior that weighs all evidence."""


def stream(
    reader: PoolReader,
    settings: SelfTrainingSettings,
    teacher: Teacher,
    positions: Int64Array,
    views: Views | None,
    *,
    probabilities: bool,
) -> Iterator[tuple[Int64Array, Int64Array, BlockScores]]:
    """For each block with wanted samples: their positions, their rows in the block, the block's scores.

    `positions` (u,) sorted; `views` stand in for those of `reader`. Raises ConfigError where a prompt finds no views.
    """
    for index in range(reader.n_blocks):
        block = reader.block(index, views=views is None)
        lo, hi = np.searchsorted(positions, [block.start, block.start + len(block.keys)])
        if lo == hi:
            continue
        found = positions[lo:hi]
        rows = found - block.start
        wanted = np.zeros(len(block.keys), bool)
        wanted[rows] = True
        fresh = None if views is None else views(found)
        seen = _views_of(block, rows, fresh, include_center=settings.include_center)
        if isinstance(teacher, Posterior):
            scores = score_block(
                teacher,
                index,
                seen,
                uncertainty=settings.uncertainty,
                probabilities=probabilities,
                wanted=wanted,
            )
        elif seen.shape[1] == 0:
            raise ConfigError("views: self-training needs at least one view; set views to 5, or include_center")
        else:
            scores = score_views(
                seen, teacher, uncertainty=settings.uncertainty, probabilities=probabilities, wanted=wanted
            )
        yield found, rows, scores


def _views_of(
    block: FeatureBlock, rows: Int64Array, fresh: Float16Array | None, *, include_center: bool
) -> NDArray[Any]:
    """All views (m, L, d) of a block; fresh ones stand in their rows, so that sums don't depend on who is asked."""
    m, dim = block.features.shape
    found = block.views
    if fresh is not None:
        if fresh.shape[0] != len(rows) or fresh.shape[2] != dim:
            raise ValueError(f"fresh views have shape {fresh.shape}, expected ({len(rows)}, L, {dim})")
        found = np.zeros((m, fresh.shape[1], dim), fresh.dtype)
        found[rows] = fresh
    if found is None:
        found = np.zeros((m, 0, dim), block.features.dtype)
    if include_center:
        found = np.concatenate([block.features[:, None, :], found], axis=1)
    return found
