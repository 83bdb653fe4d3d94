"""Who weighs the evidence of a pool: its graph, and the posteriors that are inferred from labels; each made once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np

from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.records import Float32Array, Int64Array, PoolReader, TextState
from psp_ray.neighbors.cells import is_large
from psp_ray.neighbors.graph import Opinion, PoolGraph, knn_graph, propagate
from psp_ray.posterior.evidence import Bought, Evidence, Posterior, digest
from psp_ray.posterior.large import LargeEvidence, LargePosterior
from psp_ray.selftrain.records import KnownLabels, SoftTargets
from psp_ray.selftrain.soft import soft_labels

HELD_OUT = 2
"""Parts of the labels that are held out in a large pool, where each has hundreds."""


class Weighing:
    """What labels say about a pool, by its graph and by all evidence; keeps what depends on the pool alone, and the
    latest posterior."""

    def __init__(self, pool: PoolReader, settings: SelfTrainingSettings) -> None:
        self.pool, self.settings = pool, settings
        self._graph: PoolGraph | None = None
        self._evidence: Evidence | None = None
        self._large: LargeEvidence | None = None
        self._latest: OrderedDict[bytes, Posterior] = OrderedDict()

    def graph(self) -> PoolGraph:
        """The pool's graph of nearest neighbors; computed once."""
        if self._graph is None:
            self._graph = knn_graph(
                self.pool,
                neighbors=self.settings.graph_neighbors,
                power=self.settings.graph_power,
                limit=self.settings.graph_limit,
                whitening=self.settings.graph_whitening,
            )
        return self._graph

    def opinion(self, positions: Int64Array, known: KnownLabels) -> Opinion:
        """What known labels say about samples of the graph (-1: nothing), and how surely; both (k,)."""
        if len(known.positions) == 0:
            return Opinion(np.full(len(positions), -1, np.int32), np.zeros(len(positions), np.float32))
        graph, seeds = self.graph().with_labeled(np.asarray(known.positions, np.int64))
        alpha, balance = self.settings.graph_alpha, self.settings.graph_balance
        opinion = propagate(graph, seeds, known.labels, alpha=alpha, balance=balance)
        rows = np.searchsorted(self.graph().positions, positions)
        return Opinion(opinion.labels[rows], opinion.confidence[rows])

    def evidence(self) -> Evidence:
        """What infers posteriors over a pool that is not large; made once."""
        if self._evidence is None:
            self._evidence = Evidence(self.pool, self.graph(), self.settings)
        return self._evidence

    def large_evidence(self) -> LargeEvidence:
        """What infers posteriors over a large pool; made once."""
        if self._large is None:
            self._large = LargeEvidence(self.pool, self.settings)
        return self._large

    def prepared(self, zero_shot: TextState) -> Evidence | LargeEvidence:
        """Whichever infers posteriors over this pool."""
        large = is_large(self.pool.n, len(zero_shot.features))
        return self.large_evidence() if large else self.evidence()

    def posterior(self, zero_shot: TextState, known: KnownLabels) -> Posterior:
        """The posterior over the pool after the purchases `known`, with zero-shot as its teacher."""
        bought = Bought(known.positions, known.labels, known.rounds)
        name = digest(bought, zero_shot)
        if name not in self._latest:
            evidence = self.prepared(zero_shot)
            # A pass over a large pool is dear, what it found takes 8 bytes an image: a fold's doesn't drive it out.
            while len(self._latest) >= (2 if isinstance(evidence, LargeEvidence) else 1):
                self._latest.popitem(last=False)
            self._latest[name] = evidence.infer(bought, zero_shot)
        self._latest.move_to_end(name)
        return self._latest[name]

    def doubt(self, zero_shot: TextState, known: KnownLabels) -> Float32Array:
        """One minus the probability of the posterior's likeliest class, (n,) for the whole pool."""
        confidence = self.posterior(zero_shot, known).likeliest(np.arange(self.pool.n, dtype=np.int64))[1]
        return np.float32(1.0) - confidence

    def soft_labels(self, zero_shot: TextState, known: KnownLabels, folds: int) -> SoftTargets:
        """The posterior of the graph's samples, and again without the labels of each of `folds` parts.

        Of a large pool: that of some members, the moments of all other images, and two parts held out at most.
        """
        evidence = self.prepared(zero_shot)
        if isinstance(evidence, LargeEvidence):
            return self._large_soft_labels(evidence, zero_shot, known, folds)
        positions = self.graph().positions

        def infer(rows: Int64Array) -> Float32Array:
            if len(rows) == len(known.positions):
                return self.posterior(zero_shot, known).at(positions)
            part = Bought(known.positions[rows], known.labels[rows], known.rounds[rows])
            return self.evidence().infer(part, zero_shot).at(positions)

        return soft_labels(positions, infer, len(known.positions), folds)

    def _large_soft_labels(
        self, evidence: LargeEvidence, zero_shot: TextState, known: KnownLabels, folds: int
    ) -> SoftTargets:
        whole = self.posterior(zero_shot, known)
        assert isinstance(whole, LargePosterior)
        positions = evidence.core.positions[evidence.few(len(zero_shot.features))]

        def infer(rows: Int64Array) -> Float32Array:
            if len(rows) == len(known.positions):
                return whole.at(positions)
            part = Bought(known.positions[rows], known.labels[rows], known.rounds[rows])
            return evidence.without(part, whole, zero_shot).at(positions)

        found = soft_labels(positions, infer, len(known.positions), folds, HELD_OUT)
        return replace(found, soft=replace(found.soft, rest=whole.moments()))
