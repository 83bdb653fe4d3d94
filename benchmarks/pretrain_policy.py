"""A sampling policy pretrained by soft actor-critic in the simulator, judged on pools of families it never saw.

    python -m benchmarks.pretrain_policy --train FILE.npz ... --judge FILE.npz ... --out DIR [--made 40]

Three policies (`benchmarks.choice_policy`) learn from the same rounds:

- `scratch`: chooses an image at a time from 48 candidates (half of them the plan's best, half by chance), and starts
  from uniform odds;
- `residual`: the same, but starts from the plan, whose coverage gain gives the log odds, and learns a correction;
- `sets`: chooses one of 17 query sets (`benchmarks.selection_room`), the plan's among them, from which it starts.

Of an image they know what carries over between pools: numbers without order of classes and without scale
(`benchmarks.played_rounds`), as they stand and standardized among the candidates; images drawn before it in the same
batch count, so that redundancy is seen. Rewards are counterfactual: the share of the pool that the posterior names
rightly after the round, less what it would have been without that image (of some images of the set, each by a posterior
of its own), or less that of the plan's set. All are in units of the mean reward of their round.

Rounds are played in made worlds and in the files to train on. A file's family is what its name says (`dtd`, `digits`,
`pets`, `cal`, `rsscn7`); for each family to judge, everything is learned anew without it, first from rounds that the
plan and chance played, then from rounds of made worlds that the policy itself plays (`scratch` with the plan's odds on
top of its own). Judged is the share of the pool that is right,
over eight rounds, against the plan in the same subsamples of 90 %:

- `residual-half`: the first half of each query set is the plan's; `residual-later`: the first query set is;
- `sets-careful`: leaves the plan only where the more careful critic expects more of another set by a tenth of a round's
  mean reward; `sets-later`: the same, and the first query set is the plan's.

--out keeps what was played, learned and judged, so that a run that was ended goes on. Its `table.md` is the result.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.choice_policy import ChoicePolicy, Step
from benchmarks.played_rounds import (
    SHORTLIST,
    Draws,
    Played,
    RankedRoom,
    draw_set,
    image_steps,
    keep,
    kept,
    play,
    scales,
    set_steps,
    set_told,
)
from benchmarks.simulator import Moment, World, made, read_world
from psp_ray.core.records import Int64Array
from psp_ray.core.threads import limit_threads

Array = NDArray[Any]
FAMILIES = ("dtd", "digits", "pets", "cal", "rsscn7")
FORMS = ("scratch", "residual", "sets")
JUDGED = ("scratch", "residual", "residual-half", "residual-later", "sets", "sets-careful", "sets-later")
PARTS = (slice(0, None), slice(-1, None), slice(0, 1), slice(1, 2), slice(2, 4), slice(4, 8))
"""Rounds that the table's columns are means over."""
CAREFUL = 0.1
"""Mean rewards of a round by which another set must be better than the plan's, for `sets-careful`."""


def families(name: str) -> set[str]:
    """The families whose images a file's name says it holds."""
    return {family for family in FAMILIES if family in name}


# -- learning ----------------------------------------------------------------------------------------------------------


def new_policy(form: str, n_in: int, seed: int) -> ChoicePolicy:
    budget = {"scratch": 2.0, "residual": 0.5, "sets": 0.5}[form]
    return ChoicePolicy(n_in, seed, budget=budget, gamma=0.3 if form == "sets" else 0.5)


def learn(
    form: str, played: list[Played], again: Sequence[World], rounds: int, updates: int, seed: int = 0
) -> ChoicePolicy:
    """A policy that learned from what was `played`, and then from `rounds` of the worlds `again` that it plays itself,
    half and half."""
    steps = steps_of(form, played)
    policy = new_policy(form, steps[0].x.shape[1], seed)
    told = policy.learn(steps, updates if form == "sets" else updates // 2)
    print(f"  {form}: {len(steps)} choices, {told}", flush=True)
    if form == "sets" or not again:
        return policy
    own = [play(world, rounds, seed + 1000 + i, 0, policy) for i, world in enumerate(again)]
    steps = [*steps, *4 * steps_of(form, own, scales(played)[0])]
    print(f"  {form}: {len(steps)} with its own, {policy.learn(steps, updates - updates // 2)}", flush=True)
    return policy


def steps_of(form: str, played: Sequence[Played], scale: dict[int, float] | None = None) -> list[Step]:
    if form == "sets":
        return set_steps(played, scale or scales(played)[1])
    return image_steps(played, scale or scales(played)[0], prior=form == "residual")


# -- judging -----------------------------------------------------------------------------------------------------------


def query_set(name: str, room: RankedRoom, moment: Moment, policies: dict[str, ChoicePolicy], seed: int) -> Int64Array:
    """The query set of one of `JUDGED`, or of the plan."""
    rng = np.random.default_rng([seed, moment.round])
    if name == "plan" or (name.endswith("later") and moment.round == 1):
        return room.world.plan(moment)
    policy = policies[name.split("-")[0]]
    if name.startswith("sets"):
        sets = room.sets(moment, 16, rng)
        x, prior = set_told(room, moment, sets)
        if name == "sets":
            return sets[int(policy.log_odds(x, prior).argmax())]
        least = policy.least_values(x, prior)
        return sets[int(least.argmax())] if least.max() > least[0] + CAREFUL else sets[0]

    def choose(told: Array, odds: Array, rng: np.random.Generator) -> int:
        return int(policy.log_odds(told, odds if name.startswith("residual") else np.zeros_like(odds)).argmax())

    planned = room.world.n_classes // 2 if name.endswith("half") else 0
    return draw_set(Draws(room, moment, rng), choose, planned)


def judge(room: RankedRoom, name: str, policies: dict[str, ChoicePolicy], rounds: int, seed: int) -> list[float]:
    """Percent of the pool that is right after each round."""
    world, found = room.world, []
    moment = world.begin()
    for _ in range(rounds):
        if len(moment.known.positions) + world.n_classes > world.pool.n - SHORTLIST:
            break
        moment, worth = world.ask(moment, query_set(name, room, moment, policies, seed))
        found.append(100 * worth)
    return found


def interval(values: Sequence[float]) -> str:
    """Mean and Student's 95 % interval."""
    from scipy.stats import t

    if not values:
        return "–"
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return f"{mean:+.2f}"
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def gain_of(pool: dict[str, list[list[float]]], name: str) -> Array:
    """A policy's gain over the plan in each round (r,), mean of the replicates."""
    pairs = zip(pool[name], pool["plan"], strict=False)
    return np.mean([np.array(mine) - np.array(plan) for mine, plan in pairs], axis=0)


def table(found: dict[str, dict[str, list[list[float]]]]) -> str:
    """Markdown: every policy against the plan; `found[pool][name]` holds a curve per replicate. Intervals are over
    pools, of the means of their replicates."""
    lines = [f"{len(found)} pools, {min(len(f['plan']) for f in found.values())} or more replicates each\n"]
    lines += ["| against the plan | mean over rounds | final | round 1 | round 2 | rounds 3, 4 | rounds 5 to 8 |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    for name in JUDGED:
        gains = [gain_of(pool, name) for pool in found.values() if name in pool]
        parts = [[gain[rounds] for gain in gains if len(gain[rounds])] for rounds in PARTS]
        lines.append(f"| {name} | {' | '.join(interval([float(p.mean()) for p in part]) for part in parts)} |")
    lines += ["\n| pool | plan | " + " | ".join(JUDGED) + " |", "|---" * (2 + len(JUDGED)) + "|"]
    for title, pool in found.items():
        base = np.mean([np.mean(curve) for curve in pool["plan"]])
        means = [f"{gain_of(pool, name).mean():+.2f}" if name in pool else "" for name in JUDGED]
        lines.append(f"| {title} | {base:.1f} | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


# -- the whole ---------------------------------------------------------------------------------------------------------


def play_all(given: argparse.Namespace) -> dict[str, Played]:
    """What was played by the name of its world."""
    folder = given.out / "played"
    folder.mkdir(parents=True, exist_ok=True)
    places: list[tuple[str, Callable[[], World]]] = []
    places += [(f"made-{seed}", partial(made, seed)) for seed in range(given.made)]
    for seed in range(given.train_seeds):
        places += [(f"{path.stem}-{seed}", partial(read_world, path, 100 + seed)) for path in given.train]
    found = {}
    for at in np.random.default_rng(0).permutation(len(places)).tolist():
        name, make = places[at]
        path = folder / f"{name}.npz"
        if not path.is_file():
            start = time.perf_counter()
            keep(path, play(make(), given.train_rounds, len(found), given.sets))
            print(f"played {name} in {time.perf_counter() - start:.0f} s", flush=True)
        found[name] = kept(path)
    return found


def policies_without(family: str, played: dict[str, Played], given: argparse.Namespace) -> dict[str, ChoicePolicy]:
    """Each form, learned without a family."""
    mine = [one for name, one in played.items() if family not in families(name)]
    found = {}
    for form in FORMS:
        path = given.out / f"{form}-without-{family}.safetensors"
        if path.is_file():
            steps = steps_of(form, mine[:1])
            found[form] = new_policy(form, steps[0].x.shape[1], 0)
            found[form].load(path)
            continue
        print(f"without {family}: {len(mine)} worlds", flush=True)
        again = [made(10_000 + seed) for seed in range(given.again)]
        found[form] = learn(form, mine, again, given.train_rounds, given.updates)
        found[form].save(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="*", default=[], type=Path, metavar="FILE.npz")
    parser.add_argument("--judge", nargs="+", type=Path, metavar="FILE.npz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--made", type=int, default=40)
    parser.add_argument("--train-seeds", type=int, default=2, help="subsamples of each file to train on")
    parser.add_argument("--train-rounds", type=int, default=6)
    parser.add_argument("--sets", type=int, default=10, help="query sets that are asked in a round of training")
    parser.add_argument("--again", type=int, default=8, help="made worlds that each policy plays itself")
    parser.add_argument("--updates", type=int, default=800)
    parser.add_argument("--policies", nargs="*", default=JUDGED, choices=JUDGED, help="what is judged; default: all")
    parser.add_argument("--replicates", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    unclear = [path.name for path in given.judge if len(families(path.stem)) != 1]
    if unclear:
        parser.error(f"{', '.join(unclear)}: the name must hold one of the families {', '.join(FAMILIES)}")
    limit_threads(1)
    played = play_all(given)
    path, found = given.out / "judged.json", {}
    if path.is_file():
        found = json.loads(path.read_text())
    for seed in range(given.replicates):
        for file in given.judge:
            pool = found.setdefault(file.stem, {})
            missing = [name for name in ("plan", *given.policies) if len(pool.get(name, [])) <= seed]
            if not missing:
                continue
            (family,) = families(file.stem)
            policies, room = policies_without(family, played, given), RankedRoom(read_world(file, seed))
            for name in missing:
                pool.setdefault(name, []).append(judge(room, name, policies, given.rounds, seed))
            path.write_text(json.dumps(found))
            (given.out / "table.md").write_text(table(found))
            print(f"judged {file.stem} {seed}", flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
