"""One distribution per image, from teacher, graph and class means, weighed by evidence that never saw its judge.

What an image shows is told by three opinions (`psp_ray.posterior.opinions`): of the zero-shot teacher, of bought labels
spread over the graph of nearest neighbors, and of class means re-estimated from the whole pool. How much teacher and
graph count is not known beforehand: a teacher is right on 90 % of one pool and on 10 % of the next. So all of it is
computed under several hypotheses (factors on either weight), and each is judged *prequentially* (Dawid, 1984): by the
labels of a round under what was inferred before that round, from earlier labels alone. Nothing that a label touched
can testify for that label. The same predictions say how sure the posterior may be: its temperature.

The weights used are the mean of the hypotheses' logs, weighted by prior times likelihood; before the second round they
are the prior's. Everything is a function of the purchases and the teacher, so a run that is resumed finds the same.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.pool import block_spans
from psp_ray.core.probability import softmax
from psp_ray.core.records import Float32Array, Float64Array, Int32Array, Int64Array, PoolReader, TextState
from psp_ray.neighbors.graph import PoolGraph, class_masses
from psp_ray.neighbors.space import ImageSpace, unit
from psp_ray.posterior.members import Members, MemberSource, PlaceSource
from psp_ray.posterior.opinions import (
    TEACHER_SPREAD,
    ClassMeans,
    class_means,
    fitted_scale,
    graph_doubt,
    graph_opinion,
    graph_weight,
    mean_probability,
    sureness,
    teacher_logits,
    teacher_strength,
    unheard_odds,
)

FACTORS = (0.4, 1.0, 2.5)
"""Hypotheses: factors on the teacher's weight,"""
GRAPH_FACTORS = (0.05, *FACTORS)
"""and on the graph's, which may follow something else than the classes."""
FACTOR_SPREAD = 0.7
"""Standard deviation of the log of such a factor before any evidence."""
FIRST_TEMPERATURE = 0.27
"""Factor on the log odds before any evidence: they count images of one cluster as if they were independent."""
TEMPERATURE_SPREAD = 0.7
REMEMBERED_BYTES = 256 * 2**20
"""What was foretold of earlier rounds, and what the graph said, is kept up to this size: each round, and each fold,
asks for it again."""
Taught = tuple[Float32Array, Float64Array]
"""The weighed logits (k, C) of a teacher, and its mean probabilities (C,), which many hypotheses share."""


@dataclass(frozen=True)
class Bought:
    """Purchases in the order in which they were made: `positions` (m,), `labels` (m,) int32, `rounds` (m,) rising."""

    positions: Int64Array
    labels: Int32Array
    rounds: Int64Array

    def __post_init__(self) -> None:
        if not len(self.positions) == len(self.labels) == len(self.rounds):
            raise ValueError("positions, labels and rounds of purchases differ in length")
        if (np.diff(self.rounds) < 0).any():
            raise ValueError("purchases must come in the order of their rounds")

    def until(self, count: int) -> Bought:
        """The first `count` purchases."""
        return Bought(self.positions[:count], self.labels[:count], self.rounds[:count])

    def latest(self, count: int) -> list[tuple[int, int]]:
        """Where the last `count` rounds begin and end, but for the first round, before which nothing was bought."""
        starts = np.flatnonzero(np.diff(self.rounds, prepend=self.rounds[0])).tolist()[-count:]
        return list(zip(starts, [*starts[1:], len(self.positions)][: len(starts)], strict=True))


@dataclass(frozen=True)
class Weights:
    """What counts how much: factors on the teacher's logits, on the graph's log shares and, at the end, on the sum."""

    teacher: float
    graph: float
    temperature: float


@dataclass(frozen=True)
class Judgment:
    """The evidence behind the weights.

    `factors` (h, 2) of the hypotheses, on teacher and graph; `log_likelihood` (h,) of `n_labels` later labels, each at
    the temperature that suits the hypothesis best, `temperature` (h,); `share` (h,) what each counts; sums to 1.
    """

    factors: Float64Array
    log_likelihood: Float64Array
    temperature: Float64Array
    share: Float64Array
    n_labels: int

    @classmethod
    def none(cls) -> Judgment:
        """Before any label came."""
        count = len(hypotheses())
        return cls(hypotheses(), np.zeros(count), np.ones(count), share_of(np.zeros(count)), 0)

    def weigh(self, base: Weights) -> Weights:
        """Weights before evidence `base`, times the factors that the evidence is for, with its temperature."""
        factor = np.exp(self.share @ np.log(self.factors))
        temperature = float(np.exp(self.share @ np.log(self.temperature)))
        return Weights(float(base.teacher * factor[0]), float(base.graph * factor[1]), temperature)


class Posterior:
    """One distribution per image of the pool; rows of `block` and `table` are float32 and sum to 1.

    Images beside the graph (in pools above `graph_limit`) have no graph opinion: teacher and class means speak.
    A bought image has the distribution that its picture suggests, not its label.
    """

    def __init__(
        self,
        source: PlaceSource,
        teacher: TextState,
        weights: Weights,
        judgment: Judgment,
        means: ClassMeans | None,
        graph_odds: Float32Array | None,
    ) -> None:
        self.weights, self.judgment, self.means = weights, judgment, means
        self._source, self._teacher, self._graph_odds = source, teacher, graph_odds
        self._in_graph = source.graph.positions if isinstance(source, MemberSource) else None

    @property
    def n(self) -> int:
        return self._source.pool.n

    @property
    def n_classes(self) -> int:
        return len(self._teacher.features)

    def block(self, index: int) -> Float32Array:
        """Probabilities (m, C) of a block of the pool."""
        encodings, places = self._source.block(index)
        start = self.start_of(index)
        return softmax(self._logits(encodings, places, np.arange(start, start + len(encodings))))

    def start_of(self, index: int) -> int:
        """Position of the first image of a block."""
        return index * self._source.pool.block_size

    def blocks(self) -> Iterator[Float32Array]:
        """The blocks in order, for pools whose table doesn't fit in memory."""
        return (self.block(index) for index in range(self._source.pool.n_blocks))

    def table(self) -> Float32Array:
        """All probabilities (n, C)."""
        empty = np.zeros((0, self.n_classes), np.float32)
        return np.concatenate([empty, *self.blocks()])

    def at(self, positions: Int64Array) -> Float32Array:
        """Probabilities (k, C) of the images at sorted `positions` (k,)."""
        found = np.zeros((len(positions), self.n_classes), np.float32)
        for index, span in block_spans(positions, self._source.pool.block_size):
            found[span] = self.block(index)[positions[span] - self.start_of(index)]
        return found

    def likeliest(self, positions: Int64Array) -> tuple[Int32Array, Float32Array]:
        """The class of the images at sorted `positions` (k,), and its probability; both (k,)."""
        labels, confidence = np.zeros(len(positions), np.int32), np.zeros(len(positions), np.float32)
        for index, span in block_spans(positions, self._source.pool.block_size):
            table = self.block(index)[positions[span] - self.start_of(index)]
            labels[span], confidence[span] = table.argmax(axis=1), table.max(axis=1)
        return labels, confidence

    def of_views(self, views: Float32Array, positions: Int64Array) -> Float32Array:
        """Probabilities (k, L, C) of single views (k, L, d) of the images at `positions` (k,).

        Teacher and means see the view; the graph, which knows images only, says the same of all of them.
        """
        k, n_views, dim = views.shape
        flat = unit(np.ascontiguousarray(views, np.float32).reshape(-1, dim))
        logits = self._logits(flat, self._source.space.place(flat), np.repeat(positions, n_views))
        return softmax(logits).reshape(k, n_views, -1)

    def _logits(self, encodings: Float32Array, places: Float32Array, positions: Int64Array) -> Float32Array:
        logits = np.float32(self.weights.teacher) * teacher_logits(encodings, self._teacher)
        if self.means is not None:
            logits += self.means.logits(places)
        known = self._in_graph
        if self._graph_odds is not None and known is not None:
            at = np.minimum(np.searchsorted(known, positions), len(known) - 1)
            inside = known[at] == positions
            logits[inside] += np.float32(self.weights.graph) * self._graph_odds[at[inside]]
        logits *= np.float32(self.weights.temperature)
        return logits


class Evidence:
    """Infers posteriors over a pool; keeps functions of the pool, and what earlier rounds said about later labels."""

    def __init__(self, pool: PoolReader, graph: PoolGraph, settings: SelfTrainingSettings) -> None:
        self.settings = settings
        space = ImageSpace.fit(
            pool,
            whitening=settings.posterior_whitening,
            shrinkage=settings.posterior_shrinkage,
            views=graph.space.views,
        )
        self._source = MemberSource(pool, space, graph)
        self._said: OrderedDict[bytes, Float32Array] = OrderedDict()
        self._prepared: OrderedDict[bytes, tuple[Weights, Float32Array]] = OrderedDict()

    def infer(self, bought: Bought, teacher: TextState) -> Posterior:
        """The posterior after purchases, under the zero-shot `teacher` (any teacher that has seen none of the labels).

        With nothing bought it is the teacher's own, untempered: no evidence says otherwise.
        """
        n_classes = len(teacher.features)
        if not len(bought.positions):
            return Posterior(self._source, teacher, Weights(1.0, 0.0, 1.0), Judgment.none(), None, None)
        judgment = self._judge(bought, teacher)
        base, members, odds = self._prepare(bought, teacher)
        weights = judgment.weigh(base)
        taught = _taught(teacher_logits(members.encodings, teacher), weights.teacher)
        means, _ = self._settle(members, odds, weights.graph, taught, bought)
        inside = odds[: len(self._source.graph.positions)]
        assert inside.shape[1] == n_classes
        return Posterior(self._source, teacher, weights, judgment, means, inside)

    # ---- evidence ----------------------------------------------------------------------------------------------

    def _judge(self, bought: Bought, teacher: TextState) -> Judgment:
        """Every hypothesis judged by the labels of the latest rounds, each under what was bought before it."""
        spans = bought.latest(self.settings.posterior_rounds)
        said = [self._foretold(bought.until(end), start, teacher) for start, end in spans]
        return judged(said, [bought.labels[start:end] for start, end in spans])

    def _foretold(self, bought: Bought, start: int, teacher: TextState) -> Float32Array:
        """Log odds (h, k, C) of the purchases from `start` on, under each hypothesis, from those before `start`."""
        key = digest(bought, teacher, start)
        if key not in self._said:
            earlier, judged = bought.until(start), bought.positions[start:]
            base, members, odds = self._prepare(earlier, teacher, judged)
            rows, members = members.rows[start:], _without(members, start)
            logits = teacher_logits(members.encodings, teacher)
            taught = [_taught(logits, base.teacher * factor) for factor in FACTORS]
            self._said[key] = np.stack(
                [
                    self._settle(members, odds, base.graph * on_graph, said, earlier)[1][rows]
                    for said, on_graph in product(taught, GRAPH_FACTORS)  # in the order of `hypotheses`
                ]
            )
            _forget_oldest(self._said, [item.nbytes for item in self._said.values()])
        self._said.move_to_end(key)
        return self._said[key]

    # ---- inference ---------------------------------------------------------------------------------------------

    def _prepare(
        self, bought: Bought, teacher: TextState, others: Int64Array | None = None
    ) -> tuple[Weights, Members, Float32Array]:
        """Weights before evidence, the members (bought ones, then `others`), and the graph's log shares (k, C)."""
        positions = bought.positions if others is None else np.concatenate([bought.positions, others])
        members = self._source.gather(positions)
        if len(members.encodings) > len(self._source.graph.positions):
            base, odds = self._before_evidence(members, bought, teacher)  # the graph has images of these purchases
            return base, members, odds
        # A round's purchases are asked about when it ends, and again when the next round's labels judge them.
        key = digest(bought, teacher)
        if key not in self._prepared:
            self._prepared[key] = self._before_evidence(members, bought, teacher)
            _forget_oldest(self._prepared, [odds.nbytes for _, odds in self._prepared.values()])
        base, odds = self._prepared[key]
        return base, members, odds

    def _before_evidence(self, members: Members, bought: Bought, teacher: TextState) -> tuple[Weights, Float32Array]:
        rows = members.rows[: len(bought.positions)]
        settings, n_classes = self.settings, len(teacher.features)
        masses = class_masses(
            members.graph, rows, bought.labels, n_classes, alpha=settings.graph_alpha, balance=settings.graph_balance
        )
        logits = teacher_logits(members.encodings[rows], teacher).astype(np.float64)
        trusted = fitted_scale(logits, bought.labels, 1.0, TEACHER_SPREAD)[0]
        odds = graph_opinion(masses)
        strength = teacher_strength(logits, bought.labels)
        on_graph = graph_weight(odds, strength, len(rows)) * self._doubt(members, odds, bought, teacher, trusted)
        return Weights(trusted, on_graph, 1.0), odds + unheard_odds(bought.labels, n_classes, strength)

    def _doubt(self, members: Members, odds: Float32Array, bought: Bought, teacher: TextState, trusted: float) -> float:
        """`graph_doubt` by zero-shot, alone and with class means that no label had a say in."""
        logits, rows = teacher_logits(members.encodings, teacher), members.rows[: len(bought.positions)]
        means = self._settle(_without(members, 0), odds, 0.0, _taught(logits, trusted), bought.until(0))[1]
        free = np.ones(len(odds), bool)
        free[rows] = False
        said = [part.argmax(axis=1) for part in (logits, means)]
        teachers, heard = [(part[free], part[rows]) for part in said], odds.argmax(axis=1)[free]
        return graph_doubt(teachers, heard, bought.labels, bought.rounds, sureness(odds))

    def _settle(
        self, members: Members, odds: Float32Array, on_graph: float, taught: Taught, bought: Bought
    ) -> tuple[ClassMeans, Float32Array]:
        """The class means where the graph counts `on_graph`, and the members' log odds (k, C), not tempered."""
        logits, preferred = taught
        return class_means(
            logits + np.float32(on_graph) * odds,
            logits,
            members.places,
            members.rows,
            bought.labels,
            sharpness=self.settings.posterior_sharpness,
            label_weight=self.settings.posterior_label_weight,
            steps=self.settings.posterior_steps,
            preferred=preferred,
        )


def _taught(logits: Float32Array, weight: float) -> Taught:
    """What the teacher says where it counts `weight`."""
    weighed = np.float32(weight) * logits
    return weighed, mean_probability(weighed)


def _forget_oldest(kept: OrderedDict[bytes, Any], sizes: Sequence[int]) -> None:
    """Drop what was kept first until the rest, of `sizes` in bytes, is small enough."""
    total = sum(sizes)
    for size in sizes[:-1]:
        if total <= REMEMBERED_BYTES // 2:  # there are two such memories
            return
        kept.popitem(last=False)
        total -= size


def _without(members: Members, count: int) -> Members:
    """The same members, of which only the first `count` are bought."""
    return Members(members.graph, members.encodings, members.places, members.rows[:count])


def hypotheses() -> Float64Array:
    """Factors (h, 2) on the weights of teacher and graph."""
    return np.array(list(product(FACTORS, GRAPH_FACTORS)))


def share_of(likelihood: Float64Array) -> Float64Array:
    """Prior times likelihood of each hypothesis, summing to 1."""
    weight = likelihood - 0.5 * np.sum((np.log(hypotheses()) / FACTOR_SPREAD) ** 2, axis=1)
    share = np.exp(weight - weight.max())
    result: Float64Array = share / share.sum()
    return result


def judged(said: Sequence[Float32Array], labels: Sequence[Int32Array]) -> Judgment:
    """Every hypothesis by what it `said`, log odds (h, k, C) a round, of the `labels` (k,) that came after."""
    factors = hypotheses()
    temperature, likelihood = np.full(len(factors), FIRST_TEMPERATURE), np.zeros(len(factors))
    if said:
        told = np.concatenate(labels)
        for h in range(len(factors)):
            logits = np.concatenate([part[h] for part in said])
            temperature[h], likelihood[h] = fitted_scale(logits, told, FIRST_TEMPERATURE, TEMPERATURE_SPREAD)
    return Judgment(factors, likelihood, temperature, share_of(likelihood), sum(map(len, labels)))


def digest(bought: Bought, teacher: TextState, start: int = 0) -> bytes:
    """A name for purchases and teacher, and a number beside them: 16 bytes that depend on every one of their bits."""
    numbers = np.array([start, len(bought.positions), *teacher.features.shape, teacher.logit_scale], np.float64)
    hasher = hashlib.blake2b(numbers.tobytes(), digest_size=16)
    for whole in (bought.positions, bought.labels, bought.rounds):
        hasher.update(np.asarray(whole, np.int64).tobytes())
    for real in (teacher.features, teacher.offset):
        hasher.update(np.asarray(real, np.float32).tobytes())
    return hasher.digest()
