"""Rounds over frozen features in milliseconds: the package's own plan and posterior, true labels, no ledger, no Ray.

A world is a pool with its labels and a teacher. `made` ones are classes of several clusters with sizes, shapes, noise
and a teacher's strength drawn by chance; others come from a data file, as in `benchmarks.estimates`: `features` (n, d),
`labels` (n,), `part` (n,) pool or test, `text` (C, d), and maybe `scale`, the teacher's logit scale.

After each round the posterior names a class for every image of the pool; its share of right ones, bought labels among
them, is what a choice is worth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.config.config import Config
from psp_ray.core import noise
from psp_ray.core.records import (
    BLOCK_SIZE,
    FeatureBlock,
    Float16Array,
    Float32Array,
    Float64Array,
    Int32Array,
    Int64Array,
    PoolState,
    TextState,
    UInt64Array,
)
from psp_ray.neighbors.coverage import Coverage
from psp_ray.neighbors.space import unit
from psp_ray.selftrain.records import KnownLabels
from psp_ray.selftrain.service import PseudoLabeler

Array = NDArray[Any]


@dataclass(frozen=True)
class MemoryPool:
    """A `PoolReader` over features (n, d) float16 that lie in memory."""

    features: Float16Array
    keys: UInt64Array
    block_size: int = BLOCK_SIZE
    n_views: int = 0

    @property
    def n(self) -> int:
        return len(self.features)

    @property
    def dim(self) -> int:
        return int(self.features.shape[1])

    @property
    def n_blocks(self) -> int:
        return -(-self.n // self.block_size)

    def block(self, index: int, *, views: bool = False) -> FeatureBlock:
        span = slice(index * self.block_size, min(self.n, (index + 1) * self.block_size))
        return FeatureBlock(index, span.start, self.keys[span], self.features[span], None)

    def rows(self, positions: Int64Array) -> Float16Array:
        return self.features[positions]


@dataclass(frozen=True)
class Moment:
    """Where a run stands between two rounds: what is known, and what the posterior makes of it."""

    known: KnownLabels
    probabilities: Float32Array
    """(n, C) of the posterior; before any label, the teacher's."""
    doubt: Float32Array | None

    @property
    def round(self) -> int:
        """The round that comes next."""
        return int(self.known.rounds[-1]) + 1 if len(self.known.rounds) else 1


@dataclass
class World:
    """A pool (n, d) with its labels (n,) and a teacher of C classes; a round asks for C labels."""

    name: str
    pool: MemoryPool
    truth: Int32Array
    teacher: TextState
    seed: int = 0
    config: Config = field(default_factory=Config)

    def __post_init__(self) -> None:
        self.coverage = Coverage(self.pool, self.config.policy)
        self.labeler = PseudoLabeler(self.pool, self.config.selftrain)

    @property
    def n_classes(self) -> int:
        return len(self.teacher.features)

    def state(self, moment: Moment) -> PoolState:
        """What a strategy is shown."""
        known = moment.known
        unlabeled = np.setdiff1d(np.arange(self.pool.n), known.positions)
        n_query = min(self.n_classes, len(unlabeled))
        return PoolState(
            *(moment.round, self.seed, n_query, self.n_classes, self.teacher, unlabeled),
            *(known.positions, known.labels, moment.doubt),
        )

    def begin(self) -> Moment:
        posterior = self.labeler.posterior(self.teacher, KnownLabels.none())
        return Moment(KnownLabels.none(), posterior.table(), None)

    def ask(self, moment: Moment, positions: Int64Array) -> tuple[Moment, float]:
        """The moment after the labels at `positions` (k,) were bought, and the share of the pool that is right then."""
        before = moment.known
        after = np.concatenate([before.positions, positions])
        rounds = np.concatenate([before.rounds, np.full(len(positions), moment.round)])
        known = KnownLabels(after, self.truth[after], rounds)
        table = self.labeler.posterior(self.teacher, known).table()
        said = table.argmax(axis=1)
        said[after] = known.labels
        doubt = self.labeler.doubt(self.teacher, known)
        return Moment(known, table, doubt), float(np.mean(said == self.truth))

    def plan(self, moment: Moment) -> Int64Array:
        """The query set of the package's plan."""
        state = self.state(moment)
        return self.coverage.order(state, state.n_query)


def made(seed: int) -> World:
    """A world of 5 to 15 classes and 260 to 420 images in 48 dimensions."""
    draw = np.random.default_rng(seed)
    classes, n, dim = int(draw.integers(5, 16)), int(draw.integers(260, 420)), 48
    sizes = np.maximum(draw.dirichlet(np.full(classes, draw.choice([3.0, 10.0, 50.0]))), 8 / n)
    truth = draw.choice(classes, n, p=sizes / sizes.sum())
    spread = np.arange(1, dim + 1) ** -draw.uniform(0.3, 1.0)
    apart, clusters = draw.uniform(0.3, 0.75), int(draw.integers(1, 4))
    centers = draw.normal(size=(classes, 1, dim)) * spread * apart
    centers = centers + draw.normal(size=(classes, clusters, dim)) * spread * draw.uniform(0.3, 1.0) * apart
    width = draw.uniform(0.5, 1.2, size=(classes, 1))
    features = centers[truth, draw.integers(clusters, size=n)] + draw.normal(size=(n, dim)) * spread * width[truth]
    features = unit(features + 1.5 * draw.normal(size=dim))
    means = np.stack([features[truth == c].mean(axis=0) for c in range(classes)]) - 0.9 * features.mean(axis=0)
    error = draw.normal(size=(classes, dim)) / np.sqrt(dim) / draw.uniform(0.2, 3.0)
    teacher = TextState(unit(unit(means) + error), float(draw.choice([15.0, 40.0])))
    pool = MemoryPool(features.astype(np.float16), noise.sample_keys(map(str, range(n))))
    return World(f"made-{seed}", pool, truth.astype(np.int32), teacher)


def read_world(path: str | Path, seed: int, share: float = 0.9) -> World:
    """A share of a data file's pool, drawn by `seed`."""
    with np.load(path, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files if name != "views"}
    rows = np.flatnonzero(data["part"] == "pool")
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[: round(share * len(rows))])
    pool = MemoryPool(unit(data["features"][rows]).astype(np.float16), noise.sample_keys(map(str, rows)))
    teacher = TextState(data["text"].astype(np.float32), float(data.get("scale", 100.0)))
    return World(Path(path).stem, pool, data["labels"][rows].astype(np.int32), teacher, seed)


def worlds(files: Iterable[str | Path], n_made: int, seeds: int) -> list[World]:
    """`seeds` subsamples of each file's pool, and `n_made` made worlds."""
    real = [read_world(path, seed) for path in files for seed in range(seeds)]
    return [*real, *(made(seed) for seed in range(n_made))]


def spread_of(values: Float64Array | list[float]) -> str:
    """Mean and standard error."""
    return f"{np.mean(values):+.2f} ± {np.std(values) / np.sqrt(max(len(values), 1)):.2f}"
