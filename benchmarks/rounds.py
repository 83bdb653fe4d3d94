"""Rounds over frozen features, without images, Ray or a run folder: who chooses best under one posterior and one head?

    python -m benchmarks.rounds --data dtd.parquet --class-embeddings dtd-classes.parquet --out rounds.csv
        [--strategies vssp,typiclust,random] [--seeds 5] [--rounds 8] [--set KEY=VALUE ...]

Select -> label -> posterior -> head -> accuracy on the test part, with the program's own strategies, posterior and head
(`--set head=linear`). A file as `psp-ray featurize --export` writes it: columns embedding, part (pool, test) and label.
Every seed draws another 90 % of the pool, the same for all strategies; C labels a round. Rows are appended to `--out`,
and what is there is not done again; a table of all of it is printed: mean over the seeds, ± their standard deviation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmarks.sampler_memory import FilePool
from psp_ray.acquisition import create
from psp_ray.acquisition.vssp import VSSP
from psp_ray.config.config import Config
from psp_ray.core.records import (
    Feedback,
    Float16Array,
    Int32Array,
    Int64Array,
    LearnRequest,
    PoolState,
    TextState,
)
from psp_ray.core.threads import limit_threads
from psp_ray.data.embedded.classes import read_class_embeddings
from psp_ray.learn.evaluate import evaluate
from psp_ray.learn.student import Student
from psp_ray.selftrain.records import KnownLabels, ScoreRequest
from psp_ray.selftrain.service import PseudoLabeler

POOL_SHARE = 0.9


@dataclass(frozen=True)
class Data:
    """Features (n, d), labels (n,), which rows are pool and test, names (n,), and the zero-shot teacher."""

    features: Float16Array
    labels: Int32Array
    pool: Int64Array
    test: Int64Array
    names: list[str]
    teacher: TextState


def read(path: str, class_embeddings: str, logit_scale: float | None) -> Data:
    """A file of embeddings with labels and parts, and the class embeddings that go with it."""
    table = pq.read_table(path, columns=["sample_id", "part", "label", "embedding"])
    classes = read_class_embeddings(class_embeddings, logit_scale)
    rows = np.stack(table["embedding"].to_numpy()).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    order = {name: index for index, name in enumerate(classes.names)}
    labels = np.array([order[name] for name in table["label"].to_pylist()], np.int32)
    part = np.array(table["part"].to_pylist())
    teacher = classes.text_state(classes.names, rows.shape[1])
    pool, test = np.flatnonzero(part == "pool"), np.flatnonzero(part == "test")
    return Data(rows.astype(np.float16), labels, pool, test, table["sample_id"].to_pylist(), teacher)


def play(
    data: Data, strategy: str, seed: int, rounds: int, settings: dict[str, Any], n_query: int | None = None
) -> list[float]:
    """Test accuracy after zero labels and after each round, until the pool is labeled; `n_query` as in `choices`."""
    before = evaluate(data.teacher, [data.features[data.test]], data.labels[data.test]).accuracy
    return [before, *(accuracy for _, accuracy in choices(data, strategy, seed, rounds, settings, n_query=n_query))]


def choices(
    data: Data,
    strategy: str,
    seed: int,
    rounds: int,
    settings: dict[str, Any],
    device: str = "cpu",
    n_query: int | None = None,
) -> Iterator[tuple[Int64Array, float]]:
    """(positions chosen, test accuracy) of each round, until the pool is labeled.

    `device`: where the policy's networks run; `n_query`: labels a round, by default C.
    """
    config = Config(**{"strategy": strategy, "seed": seed, **settings})
    rows = np.sort(np.random.default_rng(seed).permutation(data.pool)[: round(POOL_SHARE * len(data.pool))])
    pool, truth = FilePool(data.features[rows], [data.names[i] for i in rows]), data.labels[rows]
    sampler = create(strategy, pool, config.policy)
    if isinstance(sampler, VSSP):
        sampler.device = device
    labeler, student = PseudoLabeler(pool, config.selftrain), Student(pool, config.learn, data.teacher, seed=seed)
    text, known, doubt = data.teacher, KnownLabels.none(), None
    test, wanted = data.features[data.test], data.labels[data.test]
    for number in range(1, rounds + 1):
        unlabeled = np.setdiff1d(np.arange(pool.n), known.positions)
        if not len(unlabeled):
            return
        asked = min(n_query or len(text.features), len(unlabeled))
        state = PoolState(
            number, seed, asked, len(text.features), text, unlabeled, known.positions, known.labels, doubt
        )
        proposal = sampler.propose(state)
        positions = np.concatenate([known.positions, proposal.positions])
        when = np.concatenate([known.rounds, np.full(asked, number)])
        known = KnownLabels(positions, truth[positions], when)
        soft = labeler.soft_labels(data.teacher, known, config.learn.head_folds)
        pseudo = labeler.select(labeler.score(ScoreRequest(number, data.teacher, unlabeled)), known, proposal.positions)
        outcome = student.learn(
            LearnRequest(number, positions, known.labels, asked, pseudo, text, soft.soft, soft.held_out)
        )
        left = np.setdiff1d(unlabeled, proposal.positions)
        labels = truth[proposal.positions]
        sampler.observe(Feedback(state, proposal, labels, outcome, left, number == rounds or not len(left)))
        text, doubt = outcome.text, labeler.doubt(data.teacher, known)
        yield proposal.positions, evaluate(text, [test], wanted).accuracy


Job = tuple[str, str, int]
"""What is played on, by which strategy, with which seed."""


def played(out: Path, what: str, jobs: Iterable[Job], curve_of: Callable[[str, str, int], list[float]]) -> pd.DataFrame:
    """All rows of `out`, once `curve_of` has made those of `jobs` that it lacks; `what`: the first column's name."""
    names = [what, "strategy", "seed"]
    known = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=names)
    done = set(zip(*(known[name] for name in names), strict=True))
    for job in jobs:
        if job in done:
            continue
        row = dict(zip(names, job, strict=True)) | {"accuracies": " ".join(f"{x:.5f}" for x in curve_of(*job))}
        pd.DataFrame([row]).to_csv(out, mode="a", header=not out.exists(), index=False)
    return pd.read_csv(out)


def table(results: pd.DataFrame) -> str:
    """Markdown: per data set and strategy zero-shot, rounds 1, 4 and last, their mean, and the worst gain."""
    lines = [
        "| data | strategy | zero-shot | round 1 | round 4 | last | mean | worst against zero-shot |",
        "|---" * 8 + "|",
    ]
    for (name, strategy), group in results.groupby(["data", "strategy"], sort=False):
        curves = 100 * np.array([[float(x) for x in text.split()] for text in group["accuracies"]])
        means = curves[:, 1:].mean(axis=1)
        spread = means.std(ddof=1) if len(means) > 1 else 0.0
        worst = (curves[:, 1:] - curves[:, :1]).min()
        cells = [curves[:, 0].mean(), curves[:, 1].mean(), curves[:, min(4, curves.shape[1] - 1)].mean()]
        shown = " | ".join(f"{cell:.1f}" for cell in [*cells, curves[:, -1].mean()])
        lines.append(f"| {name} | {strategy} | {shown} | {means.mean():.1f} ± {spread:.1f} | {worst:+.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--class-embeddings", required=True)
    parser.add_argument("--logit-scale", type=float)
    parser.add_argument("--strategies", default="vssp,cbsq,maxherding,typiclust,random")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    limit_threads(1)
    data = read(options.data, options.class_embeddings, options.logit_scale)
    settings = dict(item.split("=", 1) for item in options.set)
    name = " ".join([Path(options.class_embeddings).stem, *options.set])
    jobs = [(name, strategy, seed) for seed in range(options.seeds) for strategy in options.strategies.split(",")]

    def curve_of(_: str, strategy: str, seed: int) -> list[float]:
        return play(data, strategy, seed, options.rounds, settings)

    results = played(options.out, "data", jobs, curve_of)
    print(table(results[results["data"] == name]))


if __name__ == "__main__":
    main()
