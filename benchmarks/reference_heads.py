"""Reference classifiers beside what a run learned, from the labels that it bought: what would others make of them?

    python -m benchmarks.reference_heads RUN [RUN ...] [--rounds 1 4 8]

RUN is the folder of a run over embeddings with class embeddings and a test part, such as those under `runs/` of a
comparison. Told are test accuracies after each round, mean over the runs, of zero-shot, a linear probe, label spreading
with a probe (scikit-learn's, over the whole pool), Tip-Adapter and Tip-Adapter-F (as published but for the search on a
validation set), the discriminant and the residual, all from the bought labels, and of the run's own classifier.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from psp_ray.config.learn import LearnSettings
from psp_ray.core.errors import ConfigError
from psp_ray.core.records import TextState
from psp_ray.core.threads import limit_threads
from psp_ray.features.featurize import FeaturizedDataset
from psp_ray.learn.evaluate import similarities
from psp_ray.learn.heads import FitRequest, fit, one_hot
from psp_ray.learn.tip_adapter import tip_adapter, tip_adapter_f
from psp_ray.run.looked_at import look_at
from psp_ray.run.prepare import teacher_of

Logits = Callable[[NDArray[Any]], NDArray[Any]]
OWN = "the run's own"


def classifiers(request: FitRequest, pool: NDArray[Any]) -> Iterator[tuple[str, Logits]]:
    """Each reference's name and logits (n, C) of features (n, d), from the bought labels of `request` alone."""
    settings, zero_shot = LearnSettings(), request.zero_shot
    yield "zero-shot", lambda x: similarities(zero_shot, x)
    for name, head in (("linear probe", "linear"), ("gda", "gda"), ("residual", "residual"), ("auto", "auto")):
        yield name, of(fit(head, request, settings))
    whole = replace(
        request,
        features=np.concatenate([request.features, pool]),
        targets=np.concatenate([request.targets, np.full((len(pool), request.n_classes), 1.0 / request.n_classes)]),
        weights=np.ones(len(request.features) + len(pool)),
        bought=np.arange(len(request.features) + len(pool)) < len(request.features),
    )
    yield "label spreading, probe", of(fit("spreading", whole, settings))
    labels = request.targets.argmax(axis=1)
    yield "Tip-Adapter", tip_adapter(request.features, labels, zero_shot).logits
    yield "Tip-Adapter-F", tip_adapter_f(request.features, labels, zero_shot).logits


def of(text: TextState) -> Logits:
    return lambda x: similarities(text, x)


def opened(folder: Path) -> tuple[FeaturizedDataset, TextState]:
    """A run's features and zero-shot teacher. Raises ConfigError where it isn't one over embeddings and classes."""
    run = look_at(folder)
    if run.data is None:
        raise ConfigError(f"{folder}: {run.missing}")
    teacher = teacher_of(run.config, run.data.dataset)
    if teacher is None or run.data.test.labels is None:
        raise ConfigError(f"{folder}: not a run over embeddings with --class-embeddings and a test part")
    return run.data, teacher


def judged(folder: Path, rounds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Rows `round, classifier, accuracy` (percent) of one run."""
    data, teacher = opened(folder)
    test, truth = data.test.load().astype(np.float32), np.asarray(data.test.labels)
    position = {name: row for row, name in enumerate(data.sample_ids)}
    bought = pq.read_table(folder / "labels.parquet").to_pandas()
    bought = bought[(bought.class_index >= 0) & bought.sample_id.isin(position)]
    own = pd.read_csv(folder / "rounds.csv").set_index("round").test_accuracy
    for number in rounds:
        known = bought[bought["round"] <= number]
        rows = known.sample_id.map(position).to_numpy(np.int64)
        features = data.pool.rows(rows).astype(np.float32)
        targets = one_hot(known.class_index.to_numpy(np.int32), len(teacher.features))
        request = FitRequest(features, targets, np.ones(len(rows)), np.ones(len(rows), bool), teacher)
        others = np.setdiff1d(np.arange(data.pool.n), rows)
        for name, logits in classifiers(request, data.pool.rows(others).astype(np.float32)):
            hits = logits(test).argmax(axis=1) == truth
            yield {"round": number, "classifier": name, "accuracy": 100 * float(hits.mean())}
        if number in own.index:
            yield {"round": number, "classifier": OWN, "accuracy": 100 * float(own[number])}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--rounds", nargs="+", type=int, default=[1, 4, 8])
    options = parser.parse_args(arguments)
    limit_threads(1)
    found = pd.DataFrame([row for folder in options.runs for row in judged(folder, options.rounds)])
    table = found.pivot_table(index="classifier", columns="round", values="accuracy", sort=False)
    print(f"test accuracy, mean of {len(options.runs)} runs, from the labels that they bought")
    print(table.round(1).to_string())


if __name__ == "__main__":
    main()
