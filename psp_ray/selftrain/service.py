"""The pseudo-labeler: UST scores streamed over the pool, then the cheap choice among them (BPLS)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.config.kinds import PSEUDO_SOURCES
from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.records import Int64Array, PoolReader, PseudoLabels
from psp_ray.core.topk import StreamingTopK
from psp_ray.neighbors.graph import Opinion
from psp_ray.posterior.large import LargePosterior
from psp_ray.selftrain.bpls import Filling, fill, passes, within_cap
from psp_ray.selftrain.records import Candidates, KnownLabels, ScoreRequest, Scores
from psp_ray.selftrain.scoring import Teacher, Views, stream
from psp_ray.selftrain.ust import BlockScores
from psp_ray.selftrain.weighing import Weighing

NO_OPINION = Opinion(np.zeros(0, np.int32), np.zeros(0, np.float32))
"""Of a graph that is not asked."""

FILL_SPARE = 32
"""Candidates listed per class beyond its floor, for samples that are bought meanwhile or wanted by other classes."""


class PseudoLabeler(Weighing):
    """Pseudo-labels for the unlabeled part of a pool, in two steps that depend on their arguments alone.

    `score` needs no label, so that it can run beside the oracle: it takes the pass over the views, or, where the
    posterior teaches, which only labels make, finds the graph. `select` then chooses. It can be asked again for other
    labels, in any order. Keeps the graph, a function of the pool alone, and the latest posterior, which learning asks
    for again once the pseudo-labels are chosen.
    """

    def __init__(self, pool: PoolReader, settings: SelfTrainingSettings) -> None:
        super().__init__(pool, settings)
        self.source = PSEUDO_SOURCES.find(settings.pseudo_source)()

    def score(self, request: ScoreRequest, views: Views | None = None, pool: PoolReader | None = None) -> Scores:
        """The teacher's opinion on the requested samples; in pools with a limited graph, on those in it.

        `views` stand in for the pool's; `pool` for the pool itself, in this round.

        Raises:
            ValueError: positions not sorted, not distinct or not in the pool.
            ConfigError: there are no views.
        """
        positions = np.asarray(request.positions, np.int64)
        if len(positions) and ((np.diff(positions) <= 0).any() or positions[0] < 0 or positions[-1] >= self.pool.n):
            raise ValueError(f"positions must be sorted, distinct and within 0..{self.pool.n - 1}")
        if self.source.uses_graph:  # beside the oracle, rather than when its answer is there
            positions = np.intersect1d(positions, self.graph().positions, assume_unique=True)
        if self.source.weighs_evidence:
            self.prepared(request.text)
            return Scores.pending(request.round, request.text, positions)
        return self._score(request.text, Scores.pending(request.round, request.text, positions), views, pool)

    def select(
        self,
        scores: Scores,
        known: KnownLabels,
        taken: Int64Array,
        views: Views | None = None,
        pool: PoolReader | None = None,
    ) -> PseudoLabels:
        """Pseudo-labels kept among the scored samples but for those `taken` (any order): the query set.

        `known`: the labels to build on; without any the graph has no opinion, and nothing but the floor is kept, and
        the posterior says nothing at all. `views`, `pool`: as they were given to `score`, for listed candidates that
        run out, and for the posterior.
        """
        settings = self.settings
        taken = np.unique(np.asarray(taken, np.int64))
        teacher: Teacher = scores.text
        if self.source.weighs_evidence:
            if not len(known.positions):
                return PseudoLabels.empty()
            teacher = self.posterior(scores.text, known)
            rest = scores.positions[~np.isin(scores.positions, taken, assume_unique=True)]
            pending = Scores.pending(scores.round, scores.text, rest)
            scores = self._swept(teacher, pending) or self._score(teacher, pending, views, pool)
        free = ~np.isin(scores.positions, taken, assume_unique=True)
        graph = self.opinion(scores.positions, known) if self.source.uses_graph else NO_OPINION
        opinion = self.source.choose(Opinion(scores.labels, scores.confidence), graph)
        free &= opinion.labels >= 0
        index = np.flatnonzero(free & passes(opinion.confidence, scores.uncertainty, settings))
        position, label = scores.positions[index], opinion.labels[index]
        confidence, uncertainty = opinion.confidence[index], scores.uncertainty[index]
        chosen = within_cap(label, confidence, position, settings.pseudo_cap)
        columns: list[NDArray[Any]] = [position[chosen], label[chosen], confidence[chosen], uncertainty[chosen]]
        count = np.bincount(label, minlength=len(scores.text.features))
        lacking = np.maximum(settings.pseudo_floor - count, 0)
        if lacking.any():
            filling = self._fill(teacher, scores, lacking, np.union1d(position, taken), views, pool)
            at = np.searchsorted(scores.positions, filling.positions)
            added: list[NDArray[Any]] = [
                filling.positions,
                filling.labels,
                filling.probabilities,
                scores.uncertainty[at],
            ]
            columns = [np.concatenate(pair) for pair in zip(columns, added, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        return PseudoLabels(
            columns[0][order].astype(np.int64),
            columns[1][order].astype(np.int32),
            columns[2][order].astype(np.float32),
            columns[3][order].astype(np.float32),
        )

    # ---- passes over the pool ----------------------------------------------------------------------------------

    def _swept(self, teacher: Teacher, pending: Scores) -> Scores | None:
        """What the posterior of a large pool said of all images in one pass, where no views and no floor ask for more
        (a single view is no more uncertain than itself)."""
        if not isinstance(teacher, LargePosterior) or self.pool.n_views or self.settings.pseudo_floor:
            return None
        labels, confidence = teacher.likeliest(pending.positions)
        return replace(pending, labels=labels, confidence=confidence, uncertainty=np.zeros(len(labels), np.float32))

    def _score(self, teacher: Teacher, pending: Scores, views: Views | None, pool: PoolReader | None) -> Scores:
        """What the teacher says of the samples at `pending.positions`."""
        floor, n_classes = self.settings.pseudo_floor, len(pending.text.features)
        best = StreamingTopK(n_classes, floor + FILL_SPARE) if floor else None
        parts: list[BlockScores] = []
        reader = pool or self.pool
        for found, rows, scores in stream(
            reader, self.settings, teacher, pending.positions, views, probabilities=floor > 0
        ):
            part = BlockScores(scores.labels[rows], scores.confidence[rows], scores.uncertainty[rows], None)
            parts.append(part)
            if best is not None and scores.probabilities is not None:
                values = scores.probabilities[rows].T
                if not self.source.uses_graph:
                    # Kept samples are no candidates; with a graph, who is kept depends on labels still to come.
                    kept = passes(part.confidence, part.uncertainty, self.settings)
                    values = np.where(kept[None, :], -np.inf, values)
                best.offer(np.ascontiguousarray(values), found)
        return replace(
            pending,
            labels=_join([part.labels for part in parts], np.int32),
            confidence=_join([part.confidence for part in parts], np.float32),
            uncertainty=_join([part.uncertainty for part in parts], np.float32),
            candidates=None if best is None else Candidates.of(best),
        )

    def _fill(
        self,
        teacher: Teacher,
        scores: Scores,
        lacking: Int64Array,
        blocked: Int64Array,
        views: Views | None,
        pool: PoolReader | None,
    ) -> Filling:
        assert scores.candidates is not None
        classes = np.arange(len(lacking), dtype=np.int64)
        filling = fill(lacking, classes, scores.candidates, blocked)
        listed = scores.candidates.listed
        while len(filling.short):
            # Rare: other classes or the query set took what was listed. Ask again for longer lists, of the classes
            # that lack something. Lists as long as all that is lacking together can't run out.
            classes = np.flatnonzero(lacking > 0)
            listed = min(4 * listed, int(lacking.sum()))
            best = StreamingTopK(len(classes), listed)
            for found, rows, block in stream(
                pool or self.pool, self.settings, teacher, scores.positions, views, probabilities=True
            ):
                assert block.probabilities is not None
                free = ~np.isin(found, blocked, assume_unique=True)
                values = block.probabilities[rows[free]][:, classes].T
                best.offer(np.ascontiguousarray(values), found[free])
            filling = fill(lacking, classes, Candidates.of(best), blocked)
        return filling


def _join(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
