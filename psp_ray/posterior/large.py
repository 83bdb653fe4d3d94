"""The posterior of a large pool: inferred on members of all its cells, said of every image, never an (n, C) table.

The opinions and their weights are those of `psp_ray.posterior.evidence`. What differs, beyond `is_large`:

- the graph and the class means are those of members drawn from everywhere (`psp_ray.neighbors.cells`), which count by
  the mass that they stand for;
- what a label reaches over the graph is linear in the labels: it is solved once for each label and kept, sparse, so
  that parts of the labels (a round before, a fold) cost a sum;
- other images hear the graph through their nearest members (`psp_ray.neighbors.attach`), as the mean of these members'
  log shares;
- hypotheses are judged, and held-out labels foretold, on every few members; held-out parts take over the three weights
  that all labels were judged by, on which a fifth of thousands of labels has no say worth hearing;
- one pass over the pool finds every image's class and confidence, and the moments that a discriminant is made of.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import scipy  # its parts are imported where they are first used

from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.probability import softmax
from psp_ray.core.records import Float32Array, Int32Array, Int64Array, Moments, PoolReader, TextState
from psp_ray.neighbors.attach import attach
from psp_ray.neighbors.cells import cells_of, draw_members
from psp_ray.neighbors.graph import balancing, neighbor_graph
from psp_ray.neighbors.space import ImageSpace
from psp_ray.posterior.evidence import (
    Bought,
    Judgment,
    Posterior,
    Weights,
    digest,
    hypotheses,
    judged,
)
from psp_ray.posterior.fused import Heard
from psp_ray.posterior.members import PlaceSource
from psp_ray.posterior.mixture import weighted_means
from psp_ray.posterior.opinions import (
    FLAT,
    TEACHER_SPREAD,
    ClassMeans,
    add_sparse,
    fitted_scale,
    graph_doubt,
    graph_weight_of,
    teacher_logits,
    teacher_strength,
    unheard_odds,
)
from psp_ray.posterior.reached import Core, Reached
from psp_ray.posterior.sweep import Lengths, Opinions, Sweep, sweep

ENTRIES = 1 << 22
"""Probabilities of the members that hypotheses and folds are judged on, and that heads see one by one."""


@dataclass(frozen=True)
class Spoken:
    """What the graph says from some labels: `odds` (k, C) sparse log shares over those of a class that nothing reached,
    how `sure` it is on average, and what classes (C,) that have no label get `beside`."""

    odds: scipy.sparse.csr_array
    sure: float
    beside: Float32Array


class LargePosterior(Posterior):
    """As `Posterior`, for pools whose graph is one of members: see the module.

    `apart`: sorted positions (k,) of images that heads see one by one, so that `moments` leave them out.
    """

    def __init__(
        self,
        source: PlaceSource,
        core: Core,
        teacher: TextState,
        weights: Weights,
        judgment: Judgment,
        means: ClassMeans | None,
        spoken: Spoken | None,
        apart: Int64Array,
    ) -> None:
        super().__init__(source, teacher, weights, judgment, means, None)
        self.core, self._spoken, self.apart = core, spoken, apart
        self._sweep: Sweep | None = None
        self._moments: Moments | None = None

    def _logits(self, encodings: Float32Array, places: Float32Array, positions: Int64Array) -> Float32Array:
        logits = super()._logits(encodings, places, positions)
        if self._spoken is not None:
            listens = self.core.attached.rows(positions, len(self.core.positions))
            add_sparse(logits, listens @ self._spoken.odds, self.weights.graph * self.weights.temperature)
        return logits

    def at(self, positions: Int64Array) -> Float32Array:
        """Probabilities (k, C) of the images at sorted `positions` (k,), read one by one."""
        encodings, places = self._source.read(positions)
        return softmax(self._logits(encodings, places, positions))

    def likeliest(self, positions: Int64Array) -> tuple[Int32Array, Float32Array]:
        """The class of the images at `positions` (k,), and its probability; both (k,)."""
        found = self.sweep()
        return found.labels[positions], found.confidence[positions]

    def sweep(self) -> Sweep:
        """Class and confidence of every image, in one pass that is taken once."""
        if self._sweep is None:
            self._pass()
        assert self._sweep is not None
        return self._sweep

    def moments(self) -> Moments:
        """Moments of all images under the posterior but for those `apart`."""
        if self._moments is None:
            self._pass()
        assert self._moments is not None
        return self._moments

    def _pass(self) -> None:
        core, weights, space = self.core, self.weights, self._source.space
        heard = Heard.nothing(self.n)
        if self._spoken is not None:
            heard = Heard.of(core.attached, self._spoken.odds, weights.graph * weights.temperature)
        opinions = Opinions(weights, self._teacher, self.means, space)
        self._sweep, self._moments = sweep(self._source, opinions, heard, core.lengths, self.apart)


class LargeEvidence:
    """Infers posteriors over a large pool; keeps functions of the pool, and what earlier rounds said of later ones."""

    def __init__(self, pool: PoolReader, settings: SelfTrainingSettings) -> None:
        self.settings = settings
        cells = cells_of(pool, whitening=settings.graph_whitening)
        space = ImageSpace.fit(
            pool,
            whitening=settings.posterior_whitening,
            shrinkage=settings.posterior_shrinkage,
            views=cells.space.views,
            among=cells.sample,
        )
        self._source = PlaceSource(pool, space)
        members = draw_members(cells, min(settings.graph_limit, pool.n), "graph-members")
        encodings, places = self._source.read(members.positions)
        near = cells.space.place(encodings)
        graph = neighbor_graph(near, neighbors=settings.graph_neighbors, power=settings.graph_power)
        listeners = attach(pool, cells, members.positions, near, power=settings.graph_power)
        similarity = scipy.sparse.csr_array(graph.similarity.astype(np.float32))
        self.core = Core(cells, members, encodings, places, similarity, listeners, Lengths.unknown(pool.n))
        self._reached = Reached(self.core, settings.graph_alpha)
        self._said: OrderedDict[bytes, Float32Array] = OrderedDict()

    def few(self, n_classes: int) -> Int64Array:
        """Rows of members, evenly spaced, as many as `ENTRIES` probabilities are to be had of."""
        k = len(self.core.positions)
        return np.unique(np.linspace(0, k - 1, min(k, max(1, ENTRIES // n_classes))).astype(np.int64))

    def apart(self, bought: Bought, teacher: TextState) -> Int64Array:
        """Sorted positions of the images that heads see one by one: bought ones, and the `few` members."""
        seen: Int64Array = np.union1d(self.core.positions[self.few(len(teacher.features))], bought.positions)
        return seen

    def infer(self, bought: Bought, teacher: TextState) -> LargePosterior:
        """The posterior after purchases, under the zero-shot `teacher`; with nothing bought it is the teacher's own."""
        if not len(bought.positions):
            flat, apart = Weights(1.0, 0.0, 1.0), self.apart(bought, teacher)
            return LargePosterior(self._source, self.core, teacher, flat, Judgment.none(), None, None, apart)
        judgment = self._judge(bought, teacher)
        spoken, base = self._opinions(bought, teacher)
        weights = judgment.weigh(base)
        rows = np.arange(len(self.core.positions))
        means = self._means(rows, spoken, weights, bought, teacher)
        apart = self.apart(bought, teacher)
        return LargePosterior(self._source, self.core, teacher, weights, judgment, means, spoken, apart)

    def without(self, kept: Bought, like: LargePosterior, teacher: TextState) -> LargePosterior:
        """What the posterior `like` would be from the `kept` labels alone, its weights taken over; from few members."""
        spoken, _ = self._opinions(kept, teacher)
        means = self._means(self.few(len(teacher.features)), spoken, like.weights, kept, teacher)
        return LargePosterior(
            self._source, self.core, teacher, like.weights, like.judgment, means, spoken, self.apart(kept, teacher)
        )

    # ---- evidence ----------------------------------------------------------------------------------------------

    def _judge(self, bought: Bought, teacher: TextState) -> Judgment:
        spans = bought.latest(self.settings.posterior_rounds)
        said = [self._foretold(bought.until(end), start, teacher) for start, end in spans]
        return judged(said, [bought.labels[s:e][self._judging(s, e, teacher)] for s, e in spans])

    def _judging(self, start: int, end: int, teacher: TextState) -> Int64Array:
        """Which of a round's labels judge: evenly spaced ones, so many that their logits stay small."""
        most = max(1, ENTRIES // (16 * len(teacher.features)))
        return np.unique(np.linspace(0, end - start - 1, min(end - start, most)).astype(np.int64))

    def _foretold(self, bought: Bought, start: int, teacher: TextState) -> Float32Array:
        """Log odds (h, j, C) of some of the purchases from `start` on, under each hypothesis, from those before."""
        key = digest(bought, teacher, start)
        if key not in self._said:
            earlier = bought.until(start)
            asked = bought.positions[start:][self._judging(start, len(bought.positions), teacher)]
            spoken, base = self._opinions(earlier, teacher)
            rows, found = self.few(len(teacher.features)), []
            order = np.argsort(asked, kind="stable")
            encodings, places = (part[np.argsort(order)] for part in self._source.read(asked[order]))
            taught, seen = teacher_logits(encodings, teacher), teacher_logits(self.core.encodings[rows], teacher)
            heard = self.core.attached.rows(asked, len(self.core.positions)) @ spoken.odds
            for on_teacher, on_graph in hypotheses():
                weights = Weights(base.teacher * on_teacher, base.graph * on_graph, 1.0)
                means = self._means(rows, spoken, weights, earlier, teacher, seen)
                logits = np.float32(weights.teacher) * taught + means.logits(places)
                add_sparse(logits, heard, weights.graph)
                found.append(logits)
            self._said[key] = np.stack(found)
            while len(self._said) > self.settings.posterior_rounds:
                self._said.popitem(last=False)
        self._said.move_to_end(key)
        return self._said[key]

    # ---- inference ---------------------------------------------------------------------------------------------

    def _opinions(self, bought: Bought, teacher: TextState) -> tuple[Spoken, Weights]:
        """What the graph says from some labels, and the weights before evidence."""
        order = np.argsort(bought.positions, kind="stable")
        encodings, places = (part[np.argsort(order)] for part in self._source.read(bought.positions[order]))
        logits = teacher_logits(encodings, teacher).astype(np.float64)
        trusted = fitted_scale(logits, bought.labels, 1.0, TEACHER_SPREAD)[0]
        strength = teacher_strength(logits, bought.labels)
        spoken = self.spoken(bought, len(teacher.features), strength)
        a_class = len(bought.labels) / len(teacher.features)
        on_graph = graph_weight_of(spoken.sure, strength, a_class)
        on_graph *= self._doubt(spoken, bought, teacher, trusted, logits.astype(np.float32), places)
        return spoken, Weights(trusted, on_graph, 1.0)

    def _doubt(
        self,
        spoken: Spoken,
        bought: Bought,
        teacher: TextState,
        trusted: float,
        logits: Float32Array,
        places: Float32Array,
    ) -> float:
        """`graph_doubt` by few members that the graph reaches; `logits` (m, C) and `places` (m, d) of labels."""
        rows, weights = self.few(len(teacher.features)), Weights(trusted, 0.0, 1.0)
        rows = rows[~np.isin(self.core.positions[rows], bought.positions)]
        reached = np.diff(spoken.odds.indptr) > 0
        rows = rows[reached[rows]]
        if not len(rows):
            return 1.0
        seen = teacher_logits(self.core.encodings[rows], teacher)
        means = self._means(rows, spoken, weights, bought.until(0), teacher, seen)
        said = [seen, np.float32(trusted) * seen + means.logits(self.core.places[rows])]
        told = [logits, np.float32(trusted) * logits + means.logits(places)]
        teachers = [
            (of_pool.argmax(axis=1), of_bought.argmax(axis=1)) for of_pool, of_bought in zip(said, told, strict=True)
        ]
        heard = np.asarray(spoken.odds[rows].argmax(axis=1)).ravel()
        return graph_doubt(teachers, heard, bought.labels, bought.rounds, spoken.sure)

    def spoken(self, bought: Bought, n_classes: int, strength: float) -> Spoken:
        """Log shares of the masses that labels spread to the members, as `graph_opinion` and `unheard_odds`, but for
        the constant of a row that tells no class from another; `strength` of the teacher."""
        m = len(bought.labels)
        labels = scipy.sparse.csr_array((np.ones(m, np.float32), (bought.labels, np.arange(m))), shape=(n_classes, m))
        masses = labels @ self._reached.of(bought.positions)
        total = np.asarray(masses.sum(axis=1)).ravel().astype(np.float64)
        counts = np.bincount(bought.labels, minlength=n_classes).astype(np.float64)
        factor = balancing(self.settings.graph_balance, counts, total).astype(np.float32)
        masses = scipy.sparse.dia_array((factor[None, :], [0]), shape=(n_classes, n_classes)) @ masses
        by_member = scipy.sparse.csr_array(masses.T)
        arrives = np.asarray(by_member.sum(axis=1)).ravel()
        extra = max(FLAT * float(np.median(arrives)), 1e-12)
        top = np.asarray(by_member.max(axis=1).todense()).ravel()
        sure = float(((top + extra / n_classes) / (arrives + extra)).mean())
        by_member.data = np.log1p(by_member.data * np.float32(n_classes / extra))
        return Spoken(by_member, sure, unheard_odds(bought.labels, n_classes, strength))

    def _means(
        self,
        rows: Int64Array,
        spoken: Spoken,
        weights: Weights,
        bought: Bought,
        teacher: TextState,
        seen: Float32Array | None = None,
    ) -> ClassMeans:
        """Means of the classes by `rows` (r,) of the members and the bought labels: `class_means`, weighed by mass.

        `seen` (r, C): the teacher's logits of these members, where they are at hand.
        """
        settings, core = self.settings, self.core
        seen = teacher_logits(core.encodings[rows], teacher) if seen is None else seen
        taught = np.float32(weights.teacher) * seen
        mass = core.mass[rows]
        preferred = softmax(taught).T @ (mass / mass.sum())
        add_sparse(taught, spoken.odds[rows], weights.graph)
        beside = np.float32(weights.graph) * spoken.beside
        taught += beside
        order = np.argsort(bought.positions, kind="stable")
        owned = np.zeros((len(teacher.features), self._source.pool.dim), np.float32)
        shown = self._source.read(bought.positions[order])[1]
        np.add.at(owned, bought.labels[order], np.float32(settings.posterior_label_weight) * shown)
        unknown = (~np.isin(core.positions[rows], bought.positions)).astype(np.float32) * mass
        found = weighted_means(
            taught,
            core.places[rows],
            mass,
            unknown,
            owned,
            preferred.astype(np.float64),
            sharpness=settings.posterior_sharpness,
            steps=settings.posterior_steps,
        )
        return replace(found, bias=found.bias + beside)  # what a class gets beside the graph is the same everywhere
