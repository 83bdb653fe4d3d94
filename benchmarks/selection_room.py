"""What is left to gain by choosing better: the plan beside other query sets, judged by true labels, round by round.

    python -m benchmarks.selection_room [--data FILE.npz ...] [--made 12] [--seeds 2] [--sets 24] [--rounds 8]

Along the plan's own run, each round's query set stands beside `--sets` others (the plan over other kernels, weights
and parts of the pool, sets by chance). All of them are asked, in as many worlds, and the posterior is inferred anew: so
much of the pool would have been right after the round. Told, in points:

- `spread`: standard deviation among the sets;
- `plan`: the plan less the mean of the others;
- `best`: the best of all, known by their true labels alone, less the plan. Nobody reaches it;
- `learned`: the set that a ranking prefers, less the plan. The ranking is a ridge on what is known of a set before it
  is asked (coverage in four kernels, doubt, margin, disagreement, scarcity and number of the classes it seems to hold,
  redundancy, density), fitted to the true worth of the sets of all *other* worlds in the same rounds;
- `rho`: correlation of that ranking with the truth.

Files and worlds: `benchmarks.simulator`.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np

from benchmarks.simulator import Moment, World, spread_of, worlds
from psp_ray.core.records import Float32Array, Float64Array, Int64Array
from psp_ray.core.threads import limit_threads
from psp_ray.neighbors.coverage import disagreement, greedy
from psp_ray.neighbors.graph import neighbor_graph, reach
from psp_ray.neighbors.space import ImageSpace, unit

PENALTY = 0.1
GROUPS = ((1,), (2,), (3, 4), (5, 6, 7, 8))


class Room:
    """One world's kernels (n, n), each of mean 1, and what its teacher says."""

    def __init__(self, world: World) -> None:
        self.world = world
        rows = unit(world.pool.features)
        settings = world.config.policy
        places = ImageSpace.fit(world.pool, whitening=settings.coverage_whitening, views=False).place(rows)
        self.graph, self.rows = neighbor_graph(places), rows
        near, wide = 1.0 - places @ places.T, 1.0 - rows @ rows.T
        width = settings.coverage_width * np.partition(near, min(8, len(near) - 1), axis=1)[:, 8].mean()
        kernels = (
            *(reach(self.graph), np.exp(-near / width), np.exp(-near / (3 * width))),
            np.exp(-wide / (2 * wide.mean())),
        )
        self.kernels = [kernel / kernel.mean() for kernel in kernels]
        self.density = np.sort(self.kernels[0], axis=1)[:, -20:].mean(axis=1)

    def weight(self, moment: Moment) -> Float64Array:
        """The plan's weights (n,); 1 before there are labels."""
        world, known = self.world, moment.known
        if moment.doubt is None:
            return np.ones(world.pool.n)
        apart = disagreement(self.graph, self.rows, world.teacher, known.positions, known.labels)
        return np.sqrt(np.maximum(apart * moment.doubt, 0.0))

    def sets(self, moment: Moment, count: int, draw: np.random.Generator) -> list[Int64Array]:
        """The plan's query set, and `count` others."""
        state, weight = self.world.state(moment), self.weight(moment)
        free, k = np.asarray(state.unlabeled), state.n_query
        found = [self.world.plan(moment)]
        while len(found) <= count:
            if draw.random() < 0.05:
                found.append(draw.choice(free, k, replace=False))
                continue
            shares = draw.dirichlet(np.full(len(self.kernels), 0.5))
            kernel = sum(share * part for share, part in zip(shares, self.kernels, strict=True))
            tilt = weight ** draw.choice([0.5, 1.0, 1.0, 2.0]) * np.exp(
                draw.choice([0.0, 0.7]) * draw.normal(size=len(weight))
            )
            some = np.sort(draw.choice(free, max(k, int(len(free) * draw.uniform(0.3, 1.0))), replace=False))
            found.append(some[self._cover(kernel.astype(np.float32), moment, some, tilt, k)])
        return found

    def _cover(
        self, kernel: Float32Array, moment: Moment, some: Int64Array, weight: Float64Array, k: int
    ) -> Int64Array:
        free = np.setdiff1d(np.arange(self.world.pool.n), moment.known.positions)
        covered = self._covered(kernel, moment, free)
        return greedy(kernel[np.ix_(free, some)], weight[free].astype(np.float32), covered, k)

    @staticmethod
    def _covered(kernel: Float32Array, moment: Moment, free: Int64Array) -> Float32Array:
        if not len(moment.known.positions):
            return np.zeros(len(free), np.float32)
        covered: Float32Array = kernel[np.ix_(free, moment.known.positions)].max(axis=1)
        return covered

    def told(self, moment: Moment, chosen: Int64Array) -> Float64Array:
        """What is known of a set (k,) before anybody answers: numbers that know neither classes' order nor scales."""
        weight, table = self.weight(moment), moment.probabilities[chosen].astype(np.float64)
        free = np.setdiff1d(np.arange(self.world.pool.n), moment.known.positions)
        gains = []
        for kernel in self.kernels:
            more = np.maximum(kernel[np.ix_(free, chosen)].max(axis=1) - self._covered(kernel, moment, free), 0.0)
            gains += [more.sum(), (more * weight[free]).sum()]
        top = np.sort(table, axis=1)
        seen = np.bincount(moment.known.labels, minlength=table.shape[1])
        guesses = np.bincount(table.argmax(axis=1), minlength=table.shape[1])
        among = self.kernels[0][np.ix_(chosen, chosen)] * (1.0 - np.eye(len(chosen)))
        entropy = -(table * np.log(table + 1e-9)).sum(axis=1).mean()
        others = [
            *(1.0 - top[:, -1].mean(), (top[:, -1] - top[:, -2]).mean(), entropy, weight[chosen].mean()),
            *((guesses > 0).mean(), (table / (1.0 + seen)).sum(axis=1).mean(), among.max(axis=1).mean()),
            *(self.density[chosen].mean(), np.quantile(self.density[chosen], 0.2)),
        ]
        return np.array([*gains, *others])


def standard(rows: Float64Array) -> Float64Array:
    """Columns of mean 0 and deviation 1 within one round of one world; constant ones become 0."""
    deviation = rows.std(axis=0)
    return (rows - rows.mean(axis=0)) / np.where(deviation > 1e-12, deviation, 1.0)


def look(world: World, rounds: int, count: int) -> list[tuple[int, Float64Array, Float64Array]]:
    """For each round its number, what is known of its sets (s, f), and their worth (s,) in points; the plan's first."""
    room, draw, moment, found = Room(world), np.random.default_rng(world.seed), world.begin(), []
    for number in range(1, rounds + 1):
        if len(moment.known.positions) + world.n_classes > world.pool.n:
            break
        sets = room.sets(moment, count, draw)
        asked = [world.ask(moment, chosen) for chosen in sets]
        told = np.stack([room.told(moment, chosen) for chosen in sets])
        found.append((number, standard(told), 100 * np.array([worth for _, worth in asked])))
        moment = asked[0][0]
    return found


def learned(
    rounds: list[list[tuple[int, Float64Array, Float64Array]]], group: tuple[int, ...]
) -> tuple[list[float], list[float]]:
    """(gain over the plan, correlation) in every round of a group, by a ranking fitted to the other worlds."""
    gains, rho = [], []
    for mine in range(len(rounds)):
        others = [item for at, found in enumerate(rounds) if at != mine for item in found if item[0] in group]
        if not others:
            continue
        x = np.concatenate([told for _, told, _ in others])
        y = np.concatenate([worth - worth.mean() for _, _, worth in others])
        weights = np.linalg.solve(x.T @ x + PENALTY * len(x) * np.eye(x.shape[1]), x.T @ y)
        for _, told, worth in (item for item in rounds[mine] if item[0] in group):
            score = told @ weights
            gains.append(float(worth[score.argmax()] - worth[0]))
            if worth.std() > 0:
                rho.append(float(np.corrcoef(score, worth)[0, 1]))
    return gains, rho


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[], metavar="FILE.npz")
    parser.add_argument("--made", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2, help="subsamples of each file's pool")
    parser.add_argument("--sets", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    limit_threads(1)
    places = worlds(given.data, given.made, given.seeds)
    found = []
    for world in places:
        found.append(look(world, given.rounds, given.sets))
        print(f"{world.name} seed {world.seed}: {world.pool.n} images, {world.n_classes} classes", flush=True)
    for title, kept in (("files", len(places) - given.made), ("made", given.made)):
        part = found[: len(places) - given.made] if title == "files" else found[len(places) - given.made :]
        if not kept:
            continue
        print(f"\n{title}: {kept} worlds, {given.sets} sets beside the plan\n")
        print("| rounds | spread | plan | best | learned | rho |\n|---|---:|---:|---:|---:|---:|")
        for group in GROUPS:
            worth = [item[2] for item in itertools.chain(*part) if item[0] in group]
            if not worth:
                continue
            gains, rho = learned(part, group)
            print(
                f"| {', '.join(map(str, group))} | {np.mean([w.std() for w in worth]):.2f} "
                f"| {spread_of([w[0] - w[1:].mean() for w in worth])} | {spread_of([w.max() - w[0] for w in worth])} "
                f"| {spread_of(gains)} | {np.mean(rho):.2f} |"
            )


if __name__ == "__main__":
    main()
