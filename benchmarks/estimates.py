"""Are the accuracy estimates honest? Many cheap runs in worlds whose truth is known.

    python benchmarks/estimates.py [--runs 30] [--data FILE.npz ...]

A run is the round loop in small: a strategy asks, people skip (rather what is hard to tell), labels spread to their
neighbors as pseudo-labels, and class means are learned from both under the previous classifier as teacher. Everything
that is judged is the package's own: sequence, folds, estimates. Strategies: `random`; `badge` with an audit;
`policy`, a sharp Gumbel-top-k draw that likes dense and uncertain places, in place of VSSP, with an audit; and
`easy`, a policy that asks for what it knows already, the worst case for estimates from its own choices.

Told for each world and strategy: coverage of the 95 % limits among the estimates that are shown, against the accuracy
on what is unlabeled and on test images; the mean error by round of the value, and of `fit`: how much less the refitted
folds know than the classifier that they stand for, without the luck of the draw; the same for cross-fitting that keeps
the pseudo-labels (`leaky`).

A data file holds `features` (n, d), `labels` (n,), `part` (n,) pool or test, and `text` (C, d); without one, two
worlds are made from scikit-learn's digits and from Gaussian clusters.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core import noise
from psp_ray.core.answers import SKIP
from psp_ray.posterior.accuracy import Estimate, crossfit_estimate, telling
from psp_ray.posterior.audit import Answers, BoolArray, audit_order, planned_draws
from psp_ray.posterior.crossfit import crossfit, fold_count

Array = NDArray[Any]
SHARPNESS = 12.0
NEIGHBORS = 10
WIDTH = 24
"""Principal components that are kept of the features: a run should take a moment."""
SKIPPED = (0.25, 0.02)
"""How often people skip a hard image, and another one."""


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


class World:
    """A pool and a test set with labels, a teacher, and what a run needs of them."""

    def __init__(self, name: str, features: Array, labels: Array, tested: Array, text: Array) -> None:
        pool = ~tested
        mean = features[pool].mean(axis=0)
        _, _, axes = np.linalg.svd(unit(features[pool] - mean), full_matrices=False)
        axes = axes[:WIDTH].T
        self.name = name
        self.pool, self.test = unit((features[pool] - mean) @ axes), unit((features[tested] - mean) @ axes)
        self.labels, self.test_labels = labels[pool].astype(np.int32), labels[tested].astype(np.int32)
        self.text = unit((text - text.mean(axis=0)) @ axes)
        self.n_classes, self.n = len(text), len(self.pool)
        self.keys = noise.sample_keys([f"{name}-{i}" for i in range(self.n)])
        near = self.pool @ self.pool.T
        np.fill_diagonal(near, -1.0)
        self.neighbors = np.argpartition(-near, NEIGHBORS, axis=1)[:, :NEIGHBORS]
        self.density = np.take_along_axis(near, self.neighbors, axis=1).mean(axis=1)
        logits = self.pool @ self.class_vectors(np.arange(self.n), self.labels).T
        top = np.sort(logits, axis=1)
        margin = top[:, -1] - top[:, -2]
        self.hard = (logits.argmax(axis=1) != self.labels) | (margin < np.quantile(margin, 0.15))

    def class_vectors(self, positions: Array, labels: Array, weights: Array | float = 1.0) -> Array:
        """Class means (C, d) of labeled samples; the teacher's text counts as one sample."""
        total = self.text.copy()
        np.add.at(total, labels, self.pool[positions] * np.broadcast_to(weights, (len(labels),))[:, None])
        return unit(total)

    def logits(self, vectors: Array, positions: Array) -> Array:
        return SHARPNESS * (self.pool[positions] @ vectors.T)

    def pseudo_labels(self, positions: Array, labels: Array, teacher: Array, unlabeled: Array) -> tuple[Array, Array]:
        """The surer half of what teacher and labels say after two steps to the neighbors."""
        belief = softmax(self.logits(teacher, np.arange(self.n)))
        known = np.eye(self.n_classes)[labels]
        for step in range(3):
            if step:
                belief = 0.5 * belief + 0.5 * belief[self.neighbors].mean(axis=1)
            belief[positions] = known
        sure = belief[unlabeled].max(axis=1)
        kept = unlabeled[sure >= np.median(sure)] if len(unlabeled) else unlabeled
        return kept, belief[kept].argmax(axis=1)

    def learn(self, positions: Array, labels: Array, pseudo: tuple[Array, Array]) -> Array:
        both = np.concatenate([positions, pseudo[0]]), np.concatenate([labels, pseudo[1]])
        return self.class_vectors(*both, np.repeat([1.0, 0.3], [len(labels), len(pseudo[1])]))


def choose(world: World, strategy: str, rest: Array, count: int, vectors: Array, rng: np.random.Generator) -> Array:
    """`count` of the samples `rest`, as the strategy likes them."""
    chances = softmax(world.logits(vectors, rest))
    if strategy == "badge":
        return rest[k_means_plus_plus(world.pool[rest], chances, count, rng)]
    top = np.sort(chances, axis=1)
    uncertain = top[:, -2] - top[:, -1]
    standard = [(v - v.mean()) / (v.std() + 1e-9) for v in (world.density[rest], uncertain)]
    likes = 4.0 * standard[0] + (3.0 if strategy == "policy" else -2.0) * standard[1]
    return rest[np.argsort(-(likes + rng.gumbel(size=len(rest))))[:count]]


def k_means_plus_plus(features: Array, chances: Array, count: int, rng: np.random.Generator) -> list[int]:
    """BADGE: seeds of k-means++ in the gradient embeddings, whose products factor into two."""
    weights = -chances
    weights[np.arange(len(chances)), chances.argmax(axis=1)] += 1.0
    size = (weights**2).sum(axis=1)
    chosen, distance = [int(size.argmax())], np.full(len(size), np.inf)
    while len(chosen) < count:
        last = chosen[-1]
        product = (weights @ weights[last]) * (features @ features[last])
        distance = np.minimum(distance, np.maximum(size + size[last] - 2.0 * product, 0.0))
        distance[chosen] = 0.0
        chosen.append(int(rng.choice(len(size), p=distance**2 / (distance**2).sum())))
    return chosen


@dataclass
class Told:
    """A round: what was said, and what is true."""

    now: Estimate | None
    """By cross-fitting alone."""
    later: Estimate | None
    """With the draws of the next round."""
    rest: float
    """Accuracy on what is unlabeled."""
    test: float
    fit: float
    """Accuracy of the refitted folds on what is unlabeled."""
    leaky: float
    """Hits among held-out labels when their pseudo-labels stay."""
    vectors: Array


class Run:
    """One run of the loop; iterating gives its rounds."""

    def __init__(self, world: World, strategy: str, seed: int, *, skips: bool, fraction: float, folds: int) -> None:
        self.world, self.strategy, self.fraction = world, strategy, fraction
        self.rng = np.random.default_rng(seed)
        self.order = audit_order(seed, world.keys)
        often, rarely = SKIPPED if skips else (0.0, 0.0)
        self.skipped = self.rng.random(world.n) < np.where(world.hard, often, rarely)
        self.count = fold_count(1.0 if strategy == "random" else fraction, folds)
        self.answers = Answers(
            np.zeros(0, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, bool),
            np.zeros(0, np.uint64),
            np.zeros((0, world.n_classes), np.float32),
        )
        self.vectors = world.text
        self.lines = [world.text] * self.count

    def rounds(self, rounds: int, n_query: int) -> list[Told]:
        told: list[Told] = []
        judged = np.zeros((0, self.world.n_classes))
        for number in range(1, rounds + 1):
            unlabeled = self.unlabeled()
            if len(unlabeled) <= 2 * n_query:
                break
            self.ask(number, unlabeled, n_query)
            if told:
                told[-1].later = crossfit_estimate(self.answers, judged, number - 1)
            judged, said = self.learn_and_judge(number)
            told.append(said)
        return told

    def unlabeled(self) -> Array:
        return np.setdiff1d(np.arange(self.world.n), self.answers.asked)

    def ask(self, number: int, unlabeled: Array, n_query: int) -> None:
        if self.strategy == "random":
            new, by_chance = self.rng.choice(unlabeled, n_query, replace=False), np.ones(n_query, bool)
        else:
            drawn = planned_draws(self.fraction, n_query, number)
            audit = unlabeled[np.argsort(self.order[unlabeled])[:drawn]]
            rest = np.setdiff1d(unlabeled, audit)
            own = choose(self.world, self.strategy, rest, n_query - drawn, self.vectors, self.rng)
            new, by_chance = np.concatenate([audit, own]), np.arange(n_query) < drawn
        old, world = self.answers, self.world
        self.answers = Answers(
            np.concatenate([old.asked, new]),
            np.concatenate([old.answers, np.where(self.skipped[new], SKIP, world.labels[new])]).astype(np.int32),
            np.concatenate([old.asked_in, np.full(len(new), number, np.int32)]),
            np.concatenate([old.by_chance, by_chance]),
            np.concatenate([old.order, self.order[new]]),
            np.concatenate([old.logits, world.logits(self.vectors, new)]).astype(np.float32),
        )

    def learn_and_judge(self, number: int) -> tuple[Array, Told]:
        world, answers, unlabeled = self.world, self.answers, self.unlabeled()
        known = answers.answers >= 0
        positions, labels = answers.asked[known], answers.answers[known]
        pseudo = world.pseudo_labels(positions, labels, self.vectors, unlabeled)
        fits, leaks = [], []

        def refit(fold: int, kept: BoolArray, rows: Array) -> Array:
            at, said = answers.asked[kept], answers.answers[kept]
            own = world.pseudo_labels(at, said, self.lines[fold], unlabeled)
            self.lines[fold] = world.learn(at, said, own)
            guess = world.logits(self.lines[fold], unlabeled).argmax(axis=1)
            fits.append(float((guess == world.labels[unlabeled]).mean()))
            leak = world.logits(world.learn(at, said, pseudo), answers.asked[rows]).argmax(axis=1)
            leaks.extend((leak == answers.answers[rows]).tolist())
            return world.logits(self.lines[fold], answers.asked[rows])

        judged = crossfit(answers, self.count, refit)
        self.vectors = world.learn(positions, labels, pseudo)
        rest = world.logits(self.vectors, unlabeled).argmax(axis=1) == world.labels[unlabeled]
        test = (world.test @ self.vectors.T).argmax(axis=1) == world.test_labels
        now = crossfit_estimate(answers, judged, number)
        leaky = float(np.mean(leaks)) if leaks else np.nan
        return judged, Told(now, now, float(rest.mean()), float(test.mean()), float(np.mean(fits)), leaky, self.vectors)


def clusters(seed: int = 0) -> World:
    """Gaussian clusters of unequal size and overlap, two a class, and a poor teacher."""
    rng = np.random.default_rng(seed)
    sizes = np.repeat(np.linspace(40, 160, 12).astype(int), 2)
    centers = rng.normal(size=(24, 32))
    labels = np.repeat(np.arange(24) // 2, sizes)
    features = np.repeat(centers, sizes, axis=0) + rng.normal(size=(sizes.sum(), 32)) * 1.6
    text = np.stack([features[labels == c].mean(axis=0) for c in range(12)]) + 1.5 * rng.normal(size=(12, 32))
    return World("clusters", features, labels, rng.random(len(labels)) < 0.4, text)


def digits() -> World:
    """scikit-learn's digits by their pixels, and a teacher of two images a class."""
    from sklearn.datasets import load_digits

    features, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    shown = [rng.choice(np.flatnonzero(labels == c), 2, replace=False) for c in range(10)]
    text = np.stack([features[rows].mean(axis=0) for rows in shown]) + rng.normal(size=(10, 64)) * 3.0
    return World("digits", features, labels, rng.random(len(labels)) < 0.5, text)


def worlds(files: list[Path]) -> Iterator[World]:
    if not files:
        yield digits()
        yield clusters()
    for file in files:
        with np.load(file) as data:
            features, text = (np.asarray(data[key], np.float64) for key in ("features", "text"))
            yield World(file.stem, unit(features), data["labels"], data["part"] != "pool", unit(text))


STRATEGIES = ("random", "badge", "policy", "easy")


@dataclass(frozen=True)
class Summary:
    """Of many runs: coverage and number of the estimates shown, errors (R,) by round, width at the end."""

    shown: int
    covered_rest: float
    covered_test: float
    errors: Array
    errors_later: Array
    fit: Array
    leaky: Array
    width: float


def summarize(runs: list[list[Told]]) -> Summary:
    shown = [(e, told) for run in runs for told in run for e in (told.now, told.later) if e is not None and telling(e)]

    def mean(error: Any) -> Array:
        rows = [[error(told) for told in run] for run in runs]
        with np.errstate(invalid="ignore"):
            return np.nanmean(np.array(rows, float), axis=0)

    return Summary(
        len(shown),
        float(np.mean([e.low <= told.rest <= e.high for e, told in shown])),
        float(np.mean([e.low <= told.test <= e.high for e, told in shown])),
        mean(lambda told: np.nan if told.now is None else told.now.value - told.test),
        mean(lambda told: np.nan if told.later is None else told.later.value - told.test),
        mean(lambda told: told.fit - told.rest),
        mean(lambda told: told.leaky - told.test),
        float(np.mean([run[-1].now.high - run[-1].now.low for run in runs if run[-1].now])),
    )


def points(errors: Array) -> str:
    return " ".join(f"{100 * error:+5.1f}" for error in errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--labels-per-round", type=int, default=0, help="default: the number of classes")
    parser.add_argument("--audit-fraction", type=float, default=0.1)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--strategies", nargs="*", default=STRATEGIES)
    options = parser.parse_args()
    for world in worlds(options.data):
        for strategy in options.strategies:
            for skips in (False, True):
                start = time.perf_counter()
                given = {"skips": skips, "fraction": options.audit_fraction, "folds": options.folds}
                n_query = options.labels_per_round or world.n_classes
                first = 1000 * (2 * STRATEGIES.index(strategy) + skips)  # no two settings share their luck
                seeds = range(first, first + options.runs)
                runs = [Run(world, strategy, seed, **given).rounds(options.rounds, n_query) for seed in seeds]
                found = summarize(runs)
                accuracy = [np.mean([run[at].rest for run in runs]) for at in (0, len(runs[0]) // 2, -1)]
                print(
                    f"{world.name} ({world.n} images, {world.n_classes} classes), {strategy}"
                    f"{', skips' if skips else ''}: accuracy {' '.join(f'{100 * a:.0f}' for a in accuracy)}; "
                    f"{found.shown} shown, rest covered {found.covered_rest:.3f}, test {found.covered_test:.3f}, "
                    f"width {found.width:.2f}; {(time.perf_counter() - start) / options.runs:.2f} s a run\n"
                    f"  error {points(found.errors)}\n  later {points(found.errors_later)}\n"
                    f"  fit   {points(found.fit)}\n  leaky {points(found.leaky)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
