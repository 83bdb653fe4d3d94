"""The files a run leaves behind, beside its checkpoints."""

from __future__ import annotations

import csv
import io
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from psp_ray.config import Config
from psp_ray.experiment import PoolNames, RunState
from psp_ray.files import plain, write_json, write_parquet, write_text
from psp_ray.records import Float32Array, Int32Array
from psp_ray.report.curve import plot_learning_curve

SUMMARY = "summary.json"
SUMMARY_ROW = (
    "round",
    "labels_new",
    "labels_total",
    "pseudo_labels",
    "pseudo_label_precision",
    "test_accuracy",
    "test_macro_accuracy",
    "reward",
    "ms_indicator",
    "seconds",
    "wall_seconds",
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
    root = Path(__file__).resolve().parents[1]
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
    rows = [_flat(row) for row in state.rows]
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "rounds.csv", text.getvalue())


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {key: value for key, value in row.items() if key != "seconds"}
    flat.update({f"seconds_{stage}": round(value, 4) for stage, value in row["seconds"].items()})
    return {key: "" if value is None else value for key, value in plain(flat).items()}


def write_labels(out: Path, state: RunState, names: PoolNames) -> None:
    """`labels.parquet`: every label bought, in the order bought."""
    table = pa.table(
        {
            "sample_id": [names.sample_ids[i] for i in state.labeled],
            "label": [names.classes[i] for i in state.labels],
            "round": state.bought_in,
            "log_prob": pa.array(state.log_prob, from_pandas=True),
            "class_index": state.labels,
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
) -> dict[str, Any]:
    """`summary.json`; returns its content."""
    rows = state.rows if state else []
    summary = {
        "status": status,
        "dataset": config.dataset,
        "model": config.model,
        "checkpoint": config.checkpoint,
        "image_size": image_size,
        "strategy": config.shown_strategy,
        "acquisition": config.strategy,
        "self_training": config.self_training,
        "protocol": config.protocol,
        "seed": config.seed,
        "evaluate_on": config.evaluate_on,
        "runner": config.runner,
        "versions": versions(),
        "zero_shot_accuracy": state.zero_shot.accuracy if state else None,
        "zero_shot_macro_accuracy": state.zero_shot.macro_accuracy if state else None,
        "final_accuracy": state.last.accuracy if state and state.last else None,
        "final_macro_accuracy": state.last.macro_accuracy if state and state.last else None,
        "labels_used": len(state.labeled) if state else 0,
        "labels_paid": state.labels_paid if state else 0,
        "wall_seconds": wall_seconds,
        "rounds": [{key: row[key] for key in SUMMARY_ROW} for row in rows],
    }
    write_json(out / SUMMARY, summary)
    return plain(summary)


def write_pool_predictions(
    out: Path,
    state: RunState,
    names: PoolNames,
    paths: list[str | None],
    predicted: Int32Array,
    probability: Float32Array,
) -> None:
    """`pool_predictions.parquet`: a class for every pool image and where it comes from.

    `predicted` and `probability` (n,) are the student's; bought labels stand as they were given, with probability 1,
    and retained pseudo-labels of the last round keep the teacher's class and confidence.
    """
    label, chance = predicted.copy(), probability.copy()
    source = np.full(len(label), "predicted", dtype=object)
    label[state.pseudo.positions], chance[state.pseudo.positions] = state.pseudo.labels, state.pseudo.confidence
    source[state.pseudo.positions] = "pseudo"
    label[state.labeled], chance[state.labeled] = state.labels, 1.0
    source[state.labeled] = "bought"
    table = pa.table(
        {
            "sample_id": names.sample_ids,
            "path": pa.array(paths, pa.string()),
            "class": [names.classes[i] for i in label],
            "probability": chance.astype(np.float32),
            "source": pa.array(source.tolist(), pa.string()),
        }
    )
    write_parquet(out / "pool_predictions.parquet", table)


def write_curve(out: Path, config: Config, state: RunState) -> None:
    """`learning_curve.png`."""
    title = f"{Path(config.dataset).name} · {config.shown_strategy} · seed {config.seed}"
    plot_learning_curve(out / "learning_curve.png", state.rows, state.zero_shot.accuracy, title, config.evaluate_on)
