"""What members of all cells buy in a large pool with rare classes, over samples drawn by chance alone.

    python -m benchmarks.rare_classes [--n 200000 --classes 100 --rare 40 --one-in 1000] [--seeds 5] [--rounds 8]
        [--ways members,chance] [--out FILE.csv]

A made-up pool (see `benchmarks.ten_million`) in which each of the rare classes has one image in a thousand; the others
share what is left by a power of their rank. Rounds of `psp` in one process, a label a class each. `members`: as the
program does; `chance`: as it does in pools that are not large, whose graph and plan keep to `graph_limit` and
`coverage_limit` images drawn by chance. Printed, after rounds 1, 4 and the last: accuracy on fresh images as frequent
as in the pool, recall of rare classes (mean over them), and rare classes that have a label; mean ± standard deviation.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sampler_memory import FilePool
from benchmarks.ten_million import World
from psp_ray.acquisition import create
from psp_ray.config.config import Config
from psp_ray.core.records import Feedback, Float16Array, Int32Array, LearnRequest, PoolState, TextState
from psp_ray.core.threads import limit_threads
from psp_ray.learn.evaluate import similarities
from psp_ray.learn.student import Student
from psp_ray.neighbors import cells
from psp_ray.selftrain.records import KnownLabels, ScoreRequest
from psp_ray.selftrain.service import PseudoLabeler

FIELDS = ("way", "seed", "round", "accuracy", "rare_recall", "rare_found", "pseudo_labels", "pseudo_right", "seconds")


def world(options: argparse.Namespace, seed: int) -> World:
    """Classes by falling size; the last `rare` have one image in `one_in` each."""
    made = World.make(options.classes, options.dim, seed=seed, noise=options.noise, teacher_noise=options.teacher_noise)
    shares = made.shares.copy()
    shares[-options.rare :] = 1 / options.one_in
    usual = shares[: -options.rare]
    usual *= (1 - options.rare / options.one_in) / usual.sum()
    return replace(made, shares=shares)


def play(options: argparse.Namespace, way: str, seed: int) -> Iterator[dict[str, Any]]:
    """A row for each round of a run."""
    made, config = world(options, seed), Config(**{"strategy": "vssp", "seed": seed})
    features, truth = made.rows(0, options.n, seed)
    test, wanted = made.rows(1, 20_000, seed)
    even = replace(made, shares=np.full(options.classes, 1 / options.classes))
    rare_test, rare_wanted = even.rows(2, 100 * options.classes, seed)
    is_rare = rare_wanted >= options.classes - options.rare
    pool, teacher = FilePool(features), TextState(made.teacher, 20.0)
    sampler = create("vssp", pool, config.policy)
    labeler, student = PseudoLabeler(pool, config.selftrain), Student(pool, config.learn, teacher, seed=seed)
    text, known, doubt, start = teacher, KnownLabels.none(), None, time.process_time()
    for number in range(1, options.rounds + 1):
        unlabeled = np.setdiff1d(np.arange(options.n), known.positions)
        state = PoolState(
            number, seed, options.classes, options.classes, text, unlabeled, known.positions, known.labels, doubt
        )
        proposal = sampler.propose(state)
        positions = np.concatenate([known.positions, proposal.positions])
        when = np.concatenate([known.rounds, np.full(len(proposal.positions), number)])
        known = KnownLabels(positions, truth[positions], when)
        pseudo = labeler.select(labeler.score(ScoreRequest(number, teacher, unlabeled)), known, proposal.positions)
        soft = labeler.soft_labels(teacher, known, config.learn.head_folds)
        request = LearnRequest(
            number, positions, known.labels, len(proposal.positions), pseudo, text, soft.soft, soft.held_out
        )
        outcome = student.learn(request)
        left = np.setdiff1d(unlabeled, proposal.positions)
        labels = truth[proposal.positions]
        sampler.observe(Feedback(state, proposal, labels, outcome, left, number == options.rounds))
        text, doubt = outcome.text, labeler.doubt(teacher, known)
        yield {
            "way": way,
            "seed": seed,
            "round": number,
            "accuracy": _hits(text, test, wanted).mean(),
            "rare_recall": _hits(text, rare_test[is_rare], rare_wanted[is_rare]).mean(),
            "rare_found": len(np.unique(known.labels[known.labels >= options.classes - options.rare])),
            "pseudo_labels": len(pseudo.positions),
            "pseudo_right": float(np.mean(truth[pseudo.positions] == pseudo.labels)),
            "seconds": time.process_time() - start,
        }


def _hits(text: TextState, features: Float16Array, labels: Int32Array) -> np.ndarray:
    return similarities(text, features).argmax(axis=1) == labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"n": 200_000, "classes": 100, "rare": 40, "one-in": 1000, "dim": 64, "seeds": 5, "rounds": 8}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, value in (("noise", 1.7), ("teacher-noise", 2.4)):
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--ways", default="members,chance")
    parser.add_argument("--out")
    options = parser.parse_args()
    limit_threads(1)
    bounds = cells.LARGE_POOL, cells.LARGE_TABLE
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for way in options.ways.split(","):
            cells.LARGE_POOL, cells.LARGE_TABLE = bounds if way == "members" else (1 << 62, 1 << 62)
            for row in play(options, way, seed):
                rows.append(row)
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
            if options.out:
                with Path(options.out).open("w", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS)
                    writer.writeheader()
                    writer.writerows(rows)
    print(table(rows, options))


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Markdown."""
    lines = ["| | round | accuracy % | recall of rare classes % | rare classes found |", "|---|---:|---:|---:|---:|"]
    for way in options.ways.split(","):
        for number in sorted({1, 4, options.rounds}):
            mine = [row for row in rows if row["way"] == way and row["round"] == number]
            cells_ = [
                f"{np.mean([r[name] for r in mine]) * factor:.1f} ± {np.std([r[name] for r in mine]) * factor:.1f}"
                for name, factor in (("accuracy", 100), ("rare_recall", 100), ("rare_found", 1))
            ]
            lines.append(f"| {way} | {number} | {' | '.join(cells_)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
