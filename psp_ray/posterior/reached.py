"""What single labels reach over the graph of a large pool's members."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy  # its parts are imported where they are first used

from psp_ray.core.records import Float32Array, Int64Array
from psp_ray.neighbors.attach import Attached
from psp_ray.neighbors.cells import Cells, Members
from psp_ray.neighbors.graph import solve
from psp_ray.posterior.sweep import Lengths

TOLERANCE = 0.02
"""Relative residual of a label's reach over the graph: shares of masses need no more digits."""
REACH = 1e-3
"""Reach below this share of a label's largest is forgotten."""
_LABELS = 64  # labels whose reach is solved side by side: more, and their columns leave the cache


@dataclass(frozen=True)
class Core:
    """The members of a large pool: `members` with `encodings` and `places` (k, d), their graph's `similarity` (k, k)
    float32, and `attached`, who listens to whom; `lengths` of all images, as far as a pass has found them."""

    cells: Cells
    members: Members
    encodings: Float32Array
    places: Float32Array
    similarity: scipy.sparse.csr_array
    attached: Attached
    lengths: Lengths

    @property
    def positions(self) -> Int64Array:
        return self.members.positions

    @property
    def mass(self) -> Float32Array:
        """(k,) with mean 1: a bought label counts like a few members, however large the pool is."""
        return self.members.mass / np.float32(self.members.mass.mean())


@dataclass
class Reached:
    """What single labels reach over a core's graph: sparse columns (k,), by position; solved once, then kept."""

    core: Core
    alpha: float
    _rows: dict[int, int] = field(default_factory=dict)
    _kept: scipy.sparse.csr_array | None = None

    def of(self, positions: Int64Array) -> scipy.sparse.csr_array:
        """Reach (m, k) float32 of labels at `positions` (m,)."""
        new = [p for p in dict.fromkeys(positions.tolist()) if p not in self._rows]
        found = [] if self._kept is None else [self._kept]
        found += [self._solved(np.array(new[at : at + _LABELS], np.int64)) for at in range(0, len(new), _LABELS)]
        self._rows.update(zip(new, range(len(self._rows), len(self._rows) + len(new)), strict=True))
        self._kept = scipy.sparse.csr_array(scipy.sparse.vstack(found, format="csr")) if len(found) > 1 else found[0]
        return self._kept[[self._rows[p] for p in positions.tolist()]]

    def _solved(self, positions: Int64Array) -> scipy.sparse.csr_array:
        n_members = len(self.core.positions)
        seeds = np.ascontiguousarray(self.core.attached.rows(positions, n_members).toarray().T)
        reach = solve(self.core.similarity, seeds, self.alpha, TOLERANCE).T
        reach[reach < REACH * reach.max(axis=1, keepdims=True)] = 0.0
        return scipy.sparse.csr_array(reach)
