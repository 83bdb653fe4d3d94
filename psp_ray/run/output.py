"""The files a run leaves behind, beside its checkpoints."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from psp_ray.config.config import Config
from psp_ray.core.answers import IGNORE, SKIP, answer_name
from psp_ray.core.files import plain, write_json, write_parquet, write_parquet_groups, write_text
from psp_ray.core.names import Names
from psp_ray.core.records import Float32Array, Int32Array
from psp_ray.core.tables import csv_of
from psp_ray.posterior.accuracy import Estimate
from psp_ray.report.curve import plot_learning_curve
from psp_ray.run.folder import SUMMARY
from psp_ray.run.state import PoolNames, RunState

SOURCES = ("predicted", "pseudo", "skipped", "ignored", "bought", "initial")
"""Where the class of an image is from, in `pool_predictions.parquet`."""
ROW_GROUP = 1 << 20
"""Rows of a table of predictions that are in memory at a time."""
_PREDICTED = pa.schema(
    [
        ("sample_id", pa.string()),
        ("path", pa.string()),
        ("class", pa.string()),
        ("probability", pa.float32()),
        ("source", pa.string()),
    ]
)
_VERSIONS = ("torch", "open_clip_torch", "ray", "numpy", "pyarrow", "numba", "scikit-learn")


def versions() -> dict[str, str | None]:
    """Versions of what a result depends on, and the state of the git checkout if there is one."""
    found: dict[str, str | None] = {"psp_ray": version_of("psp-ray"), "python": platform.python_version()}
    found.update({name.replace("-", "_"): version_of(name) for name in _VERSIONS})
    found["git"] = _git_state()
    return found


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--tags"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def write_rounds(out: Path, state: RunState) -> None:
    """`rounds.csv`: one line a round, rewritten whole after each (so that a resumed run repeats no line)."""
    rows = [report.csv_row() for report in state.reports]
    if not rows:
        return
    write_text(out / "rounds.csv", csv_of(rows))


def write_labels(out: Path, state: RunState, names: PoolNames) -> None:
    """`labels.parquet`: every answer in the order asked, `skip` (-1) and `ignore` (-2) too; initial labels: round 0."""
    table = pa.table(
        {
            "sample_id": pa.array(names.named(state.asked), pa.string()),
            "label": pa.array([answer_name(i, names.classes) for i in state.answers.tolist()], pa.string()),
            "round": state.asked_in,
            "log_prob": pa.array(state.log_prob, from_pandas=True),
            "by_chance": state.by_chance,
            "class_index": state.answers,
        }
    )
    write_parquet(out / "labels.parquet", table)


def write_policy(out: Path, state: RunState) -> None:
    """`policy.parquet`: losses and diagnostics of every update step (empty for strategies that don't learn)."""
    empty = pa.table({"round": pa.array([], pa.int32()), "step": pa.array([], pa.int32())})
    table = pa.concat_tables(state.updates, promote_options="default") if state.updates else empty
    write_parquet(out / "policy.parquet", table)


def write_summary(
    out: Path,
    config: Config,
    status: str,
    state: RunState | None,
    wall_seconds: float,
    image_size: int | None,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """`summary.json`; returns its content. `extra` are more keys, put before the rounds."""
    zero_shot, last = (state.zero_shot, state.last) if state else (None, None)
    summary = {
        "status": status,
        "dataset": config.data.dataset,
        "model": config.model.model,
        "checkpoint": config.model.checkpoint,
        "image_size": image_size,
        "strategy": config.policy.shown_strategy,
        "acquisition": config.policy.strategy,
        "self_training": config.selftrain.self_training,
        "protocol": config.learn.protocol,
        "seed": config.runtime.seed,
        "evaluate_on": config.data.evaluate_on,
        "runner": config.runtime.runner,
        "versions": versions(),
        "zero_shot_accuracy": zero_shot.accuracy if zero_shot else None,
        "zero_shot_macro_accuracy": zero_shot.macro_accuracy if zero_shot else None,
        "final_accuracy": last.accuracy if last else None,
        "final_macro_accuracy": last.macro_accuracy if last else None,
        "zero_shot_pool_accuracy_estimate": (
            state.zero_shot_estimate.as_dict() if state and state.zero_shot_estimate else None
        ),
        "pool_accuracy_estimate": _newest_estimate(state) if state else None,
        "oracle": config.labels.oracle,
        "labels_used": state.labels_used if state else 0,
        "labels_paid": state.labels_paid if state else 0,
        "labels_initial": int((state.asked_in == 0).sum()) if state else 0,
        "skipped": int((state.answers == SKIP).sum()) if state else 0,
        "ignored": int((state.answers == IGNORE).sum()) if state else 0,
        "stopped": state.stopped or None if state else None,
        "wall_seconds": wall_seconds,
        **(extra or {}),
        "rounds": [report.summary_row() for report in (state.reports if state else ())],
    }
    write_json(out / SUMMARY, summary)
    written: dict[str, Any] = plain(summary)
    return written


def newest_estimate(state: RunState) -> tuple[int, Estimate] | None:
    """The newest estimate of the pool's accuracy, and the round whose prompts it judges (0: zero-shot)."""
    for report in reversed(state.reports):
        if report.pool_accuracy_estimate is not None:
            return report.round, report.pool_accuracy_estimate
    return None if state.zero_shot_estimate is None else (0, state.zero_shot_estimate)


def _newest_estimate(state: RunState) -> dict[str, Any] | None:
    found = newest_estimate(state)
    return None if found is None else {**found[1].as_dict(), "round": found[0]}


def write_pool_predictions(
    out: Path,
    state: RunState,
    names: PoolNames,
    paths: pa.ChunkedArray,
    predicted: Int32Array,
    probability: Float32Array,
) -> None:
    """`pool_predictions.parquet`: a class for every pool image and where it comes from.

    `predicted` and `probability` (n,) are the student's calibrated ones (of the pseudo-label, where there is one);
    labels stand as they were given, with probability 1. An image that belongs to no class has none. Written a row group
    at a time.
    """
    label, chance = predicted.copy(), probability.astype(np.float32)
    source = np.full(len(label), SOURCES.index("predicted"), np.uint8)
    source[state.pseudo.positions] = SOURCES.index("pseudo")
    source[state.asked[state.answers == SKIP]] = SOURCES.index("skipped")
    nothing = state.asked[state.answers == IGNORE]
    source[nothing], chance[nothing], label[nothing] = SOURCES.index("ignored"), np.nan, len(names.classes)
    label[state.labeled], chance[state.labeled] = state.labels, 1.0
    source[state.labeled] = SOURCES.index("bought")
    source[state.asked[(state.asked_in == 0) & state.has_class]] = SOURCES.index("initial")
    classes, sources = pa.array([*names.classes, None], pa.string()), pa.array(SOURCES)
    ids = Names.of(names.sample_ids).column

    def rows(start: int) -> pa.Table:
        span = slice(start, start + ROW_GROUP)
        count = len(label[span])
        columns = [
            pa.chunked_array(ids.slice(start, count).chunks, pa.string()),
            pa.chunked_array(paths.slice(start, count).chunks, pa.string()),
            classes.take(pa.array(label[span])),
            pa.array(chance[span], from_pandas=True),
            sources.take(pa.array(source[span])),
        ]
        return pa.table(columns, schema=_PREDICTED)

    groups = (rows(start) for start in range(0, max(len(label), 1), ROW_GROUP))
    write_parquet_groups(out / "pool_predictions.parquet", _PREDICTED, groups)


def write_curve(out: Path, config: Config, state: RunState) -> None:
    """`learning_curve.png`."""
    title = f"{Path(config.data.dataset).name} · {config.policy.shown_strategy} · seed {config.runtime.seed}"
    plot_learning_curve(
        out / "learning_curve.png",
        state.reports,
        None if state.zero_shot is None else state.zero_shot.accuracy,
        title,
        config.data.evaluate_on,
        state.zero_shot_estimate,
    )
