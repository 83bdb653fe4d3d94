"""Rounds played in the simulator, with counterfactual rewards: what `benchmarks.pretrain_policy` learns from.

A round asks for a query set. Of the choices that led to it are kept: what was known of every candidate, in numbers that
know neither the order of classes nor scales (`NAMES`, as they stand and standardized among the candidates, then
`SETTING`); the plan's log odds for each; who was taken; and, for some images, by how much less of the pool the
posterior would have named rightly without that image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.choice_policy import ChoicePolicy, Step
from benchmarks.selection_room import Room, standard
from benchmarks.simulator import Moment, World
from psp_ray.core.records import Float64Array, Int64Array
from psp_ray.neighbors.coverage import FIRST_REACH, disagreement
from psp_ray.selftrain.records import KnownLabels

Array = NDArray[Any]
SHORTLIST = 24
"""Candidates that the plan likes best, and as many by chance."""
SHARPNESS = 20.0
"""Log odds of the plan for a candidate that covers as much as the best, against one that covers nothing."""
PLANNED = 3.0
"""Log odds of the plan's set against another, where sets are chosen."""
LEFT_OUT = 8
"""Images of a query set without which the round is played again."""
NAMES = (
    *("margin", "entropy", "doubt", "disagreement", "weight", "density", "wide density"),
    *("near a labeled one", "near one, wide", "near the batch", "near it, wide"),
    *("gain", "log gain", "rank of gain", "gain by reach", "gain by wide kernel", "gain unweighted"),
    *("expected change", "scarcity of its class", "scarcity with the batch", "class already in the batch"),
)
SETTING = ("round", "drawn", "labels per class", "doubt of the pool", "classes found", "classes", "images per class")


class Draws:
    """A query set drawn one image after the other, by what the plan covers and what is known of each image."""

    def __init__(self, room: Room, moment: Moment, rng: np.random.Generator) -> None:
        self.room, self.moment, self.rng = room, moment, rng
        world, known = room.world, moment.known
        self.free = np.setdiff1d(np.arange(world.pool.n), known.positions)
        self.weight = room.weight(moment)[self.free].astype(np.float32)
        reach, near, _, wide = room.kernels
        plan = reach + near
        if not len(known.positions):
            spread = float((wide.mean(axis=1) - wide.min(axis=1)).mean())
            plan = wide / spread + FIRST_REACH * reach
        self.kernels = [k[np.ix_(self.free, self.free)].astype(np.float32) for k in (plan, reach, wide)]
        self.to_labeled = [self._most(k[np.ix_(self.free, known.positions)]) for k in (plan, reach, wide)]
        self.covered = [c.copy() for c in self.to_labeled]
        self.gains = self.weight @ np.maximum(self.kernels[0] - self.covered[0][:, None], 0.0)
        self.own = [np.maximum(np.diag(k), 1e-9) for k in self.kernels]
        self.table = moment.probabilities[self.free].astype(np.float64)
        self.apart = self._apart()
        self.batch: list[int] = []
        self.guessed = np.zeros(self.table.shape[1])
        self.seen = np.bincount(known.labels, minlength=self.table.shape[1])
        self.limit = world.n_classes

    @staticmethod
    def _most(similar: Array) -> Array:
        empty = np.zeros(len(similar), np.float32)
        return similar.max(axis=1).astype(np.float32) if similar.shape[1] else empty

    def _apart(self) -> Float64Array:
        world, known = self.room.world, self.moment.known
        if not len(known.positions):
            return np.full(len(self.free), 0.5)
        rows = self.room.rows
        return disagreement(self.room.graph, rows, world.teacher, known.positions, known.labels)[self.free]

    def take(self, row: int) -> None:
        """Draw the image in a row of `free`."""
        self.batch.append(row)
        self.guessed += self.table[row]
        for kernel, covered in zip(self.kernels, self.covered, strict=True):
            np.maximum(covered, kernel[:, row], out=covered)
        self.gains = self.weight @ np.maximum(self.kernels[0] - self.covered[0][:, None], 0.0)

    def candidates(self, also: int | None = None) -> Int64Array:
        """Sorted rows of the plan's best, of some by chance, and of `also`, none of them drawn before."""
        left = np.setdiff1d(np.arange(len(self.free)), self.batch)
        best = left[np.argsort(-self.gains[left], kind="stable")[:SHORTLIST]]
        some = self.rng.choice(left, min(SHORTLIST, len(left)), replace=False)
        return np.unique(np.concatenate([best, some, [] if also is None else [also]])).astype(np.int64)

    def told(self, rows: Int64Array) -> tuple[Array, Array]:
        """What is known of candidates (m, f), and the plan's log odds (m,)."""
        table, every = self.table[rows], np.maximum(self.gains[rows], 0.0)
        top = np.sort(table, axis=1)
        gain = every / max(float(every.max()), 1e-12)
        own, own_wide = self.own[1][rows], self.own[2][rows]
        batch = np.array(self.batch, np.int64)
        beside = [k[np.ix_(rows, batch)].max(axis=1) if len(batch) else np.zeros(len(rows)) for k in self.kernels[1:]]
        change = self.kernels[1][:, rows] * (1.0 - self.table @ table.T)
        scarce, both = 1.0 / (1.0 + self.seen), 1.0 / (1.0 + self.seen + self.guessed)
        columns = [
            top[:, -1] - top[:, -2], -(table * np.log(table + 1e-9)).sum(axis=1) / np.log(table.shape[1]),
            1.0 - top[:, -1], self.apart[rows], self.weight[rows],
            self.room.density_rank[self.free[rows]], self.room.wide_rank[self.free[rows]],
            self.to_labeled[1][rows] / own, self.to_labeled[2][rows] / own_wide, beside[0] / own, beside[1] / own_wide,
            gain, np.log(gain + 1e-2), np.argsort(np.argsort(-gain)) / len(rows),
            self._ratio(1, rows, self.weight), self._ratio(2, rows, self.weight),
            self._ratio(0, rows, np.ones_like(self.weight)), self._relative(change.sum(axis=0)),
            (table * scarce).sum(axis=1) / max(float((self.table @ scarce).mean()), 1e-9),
            (table * both).sum(axis=1) / max(float((self.table @ both).mean()), 1e-9), table @ self.guessed,
        ]  # fmt: skip
        own_numbers = np.stack(columns, axis=1)
        classes, labels = table.shape[1], len(self.moment.known.positions)
        setting = [
            *(self.moment.round / 8, len(batch) / self.limit, np.log1p(labels / classes) / 3),
            *(1.0 - self.table.max(axis=1).mean(), float((self.seen > 0).mean())),
            *(np.log(classes) / 5, np.log(len(self.free) / classes) / 5),
        ]
        wide = np.broadcast_to(np.array(setting), (len(rows), len(setting)))
        told = np.concatenate([own_numbers, standard(own_numbers), wide], axis=1)
        return np.clip(told, -5, 5).astype(np.float32), (SHARPNESS * gain).astype(np.float32)

    def _ratio(self, kernel: int, rows: Int64Array, weight: Array) -> Array:
        more = np.maximum(self.kernels[kernel][:, rows] - self.covered[kernel][:, None], 0.0)
        return self._relative(weight @ more)

    @staticmethod
    def _relative(values: Array) -> Array:
        return values / max(float(values.max()), 1e-12)


class RankedRoom(Room):
    """A room that also knows each image's rank by density, as a share of the pool."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        n = world.pool.n
        self.density_rank = np.argsort(np.argsort(self.density)) / n
        self.wide_rank = np.argsort(np.argsort(self.kernels[3].mean(axis=1))) / n


@dataclass
class Played:
    """The choices of a played world in order, of images and of whole sets, and their rounds."""

    images: list[tuple[Array, Array, int, float]]
    """(what was known, the plan's odds, who was taken, reward or NaN)."""
    sets: list[tuple[Array, Array, int]]
    """(what was known, rewards, which was followed)."""
    image_rounds: list[int]
    set_rounds: list[int]


def right(world: World, moment: Moment, positions: Int64Array) -> float:
    """Share of the pool in percent that is right after the labels at `positions` (k,)."""
    known = moment.known
    after = np.concatenate([known.positions, positions])
    rounds = np.concatenate([known.rounds, np.full(len(positions), moment.round)])
    table = world.labeler.posterior(world.teacher, KnownLabels(after, world.truth[after], rounds)).table()
    said = table.argmax(axis=1)
    said[after] = world.truth[after]
    return 100 * float(np.mean(said == world.truth))


def set_told(room: Room, moment: Moment, sets: Sequence[Int64Array]) -> tuple[Array, Array]:
    """What is known of query sets (s, f), the plan's first, and their log odds at the start (s,)."""
    told = standard(np.stack([room.told(moment, chosen) for chosen in sets]))
    world, planned = room.world, np.arange(len(sets)) == 0
    setting = [moment.round / 8, np.log(world.n_classes) / 5, np.log(world.pool.n / world.n_classes) / 5]
    setting.append(1.0 - moment.probabilities.max(axis=1).mean())
    wide = np.broadcast_to(np.array(setting), (len(sets), len(setting)))
    x = np.concatenate([told, planned[:, None], wide], axis=1)
    return np.clip(x, -5, 5).astype(np.float32), (PLANNED * planned).astype(np.float32)


Chooser = Callable[[Array, Array, np.random.Generator], int]


def draw_set(draws: Draws, choose: Chooser, planned: int = 0) -> Int64Array:
    """A query set, its first `planned` images the plan's; positions in the order drawn."""
    for count in range(draws.limit):
        if count < planned:
            left = np.setdiff1d(np.arange(len(draws.free)), draws.batch)
            draws.take(int(left[draws.gains[left].argmax()]))
            continue
        rows = draws.candidates()
        draws.take(int(rows[choose(*draws.told(rows), draws.rng)]))
    return draws.free[draws.batch]


def by_plan(told: Array, odds: Array, rng: np.random.Generator) -> int:
    return int((odds + rng.gumbel(size=len(odds)) * rng.choice([0.0, 1.0, 3.0])).argmax())


def play(world: World, rounds: int, seed: int, n_sets: int, policy: ChoicePolicy | None = None) -> Played:
    """Rounds of a world: by `policy`, an image at a time, or else by the plan, by it with noise, or by other sets."""
    room, rng, moment = RankedRoom(world), np.random.default_rng(seed), world.begin()
    found = Played([], [], [], [])
    for number in range(1, rounds + 1):
        if len(moment.known.positions) + world.n_classes > world.pool.n - SHORTLIST:
            break
        choose = by_plan if policy is None else policy.sample
        own = draw_set(Draws(room, moment, rng), choose)
        followed = own
        if n_sets:
            sets = [*room.sets(moment, n_sets - 1, rng), own]
            worths = np.array([right(world, moment, chosen) for chosen in sets])
            x, _ = set_told(room, moment, sets)
            at = int(rng.choice([0, len(sets) - 1, int(rng.integers(len(sets)))]))
            found.sets.append((x, worths - worths[0], at))
            found.set_rounds.append(number)
            followed = sets[at]
        worth = right(world, moment, followed)
        left_out = rng.choice(len(followed), min(LEFT_OUT, len(followed)), replace=False)
        without = {int(i): worth - right(world, moment, np.delete(followed, i)) for i in left_out}
        draws = Draws(room, moment, rng)
        for i, position in enumerate(followed.tolist()):
            row = int(np.searchsorted(draws.free, position))
            rows = draws.candidates(also=row)
            told, odds = draws.told(rows)
            found.images.append((told, odds, int(np.searchsorted(rows, row)), without.get(i, np.nan)))
            found.image_rounds.append(number)
            draws.take(row)
        moment = world.ask(moment, followed)[0]
    return found


def scales(played: Sequence[Played]) -> tuple[dict[int, float], dict[int, float]]:
    """Mean size of a reward in each round, of images and of sets: what rewards are measured in."""
    images: dict[int, list[float]] = {}
    sets: dict[int, list[float]] = {}
    for one in played:
        for number, (_, _, _, reward) in zip(one.image_rounds, one.images, strict=True):
            images.setdefault(number, []).append(abs(reward))
        for number, (_, rewards, _) in zip(one.set_rounds, one.sets, strict=True):
            sets.setdefault(number, []).append(float(np.abs(rewards).mean()))
    return tuple({n: max(float(np.nanmean(v)), 1e-3) for n, v in part.items()} for part in (images, sets))  # type: ignore[return-value]


def image_steps(played: Sequence[Played], scale: dict[int, float], *, prior: bool) -> list[Step]:
    """Choices of images whose reward is known."""
    found = []
    for one in played:
        for i, (x, odds, taken, reward) in enumerate(one.images):
            if np.isnan(reward):
                continue
            rewards = np.full(len(odds), np.nan, np.float32)
            rewards[taken] = reward / scale[one.image_rounds[i]]
            following = one.images[i + 1][:2] if i + 1 < len(one.images) else (None, None)
            if not prior:
                odds = np.zeros_like(odds)
                following = (following[0], None if following[1] is None else np.zeros_like(following[1]))
            found.append(Step(x, odds, rewards, taken, *following))
    return found


def set_steps(played: Sequence[Played], scale: dict[int, float]) -> list[Step]:
    """Choices of sets; every set's reward is known."""
    found = []
    for one in played:
        for i, (x, rewards, taken) in enumerate(one.sets):
            following = one.sets[i + 1][0] if i + 1 < len(one.sets) else None
            priors = [None if told is None else np.where(np.arange(len(told)) == 0, np.float32(PLANNED), 0.0)
                      for told in (x, following)]  # fmt: skip
            paid = (rewards / scale[one.set_rounds[i]]).astype(np.float32)
            assert priors[0] is not None
            found.append(Step(x, priors[0], paid, taken, following, priors[1]))
    return found


def keep(path: Path, played: Played) -> None:
    arrays: dict[str, Array] = {
        "image_rounds": np.array(played.image_rounds),
        "set_rounds": np.array(played.set_rounds),
    }
    for i, (x, odds, taken, reward) in enumerate(played.images):
        arrays |= {f"x{i}": x, f"odds{i}": odds, f"taken{i}": np.array(taken), f"reward{i}": np.array(reward)}
    for i, (x, rewards, taken) in enumerate(played.sets):
        arrays |= {f"sx{i}": x, f"srewards{i}": rewards, f"staken{i}": np.array(taken)}
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        np.savez(file, **arrays)
    partial.replace(path)


def kept(path: Path) -> Played:
    with np.load(path, allow_pickle=False) as file:
        images, sets = file["image_rounds"].tolist(), file["set_rounds"].tolist()
        return Played(
            [(file[f"x{i}"], file[f"odds{i}"], int(file[f"taken{i}"]), float(file[f"reward{i}"]))
             for i in range(len(images))],
            [(file[f"sx{i}"], file[f"srewards{i}"], int(file[f"staken{i}"])) for i in range(len(sets))],
            images,
            sets,
        )  # fmt: skip
