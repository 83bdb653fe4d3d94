"""From the folders of runs to `results.csv` (a row per run) and `curves.csv` (a row per round of a run)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from psp_ray.core.files import write_text
from psp_ray.core.sealed import DamagedFile
from psp_ray.core.tables import cell, plain_cell
from psp_ray.run.folder import SUMMARY, read_summary
from psp_ray.studies.execute import error_of
from psp_ray.studies.plan import RUNS, Cell, Plan

RESULTS = "results.csv"
CURVES = "curves.csv"
KEYS = ["dataset", "strategy", "self_training", "labels_per_class", "seed"]
RESULT_COLUMNS = [
    *KEYS,
    "status",
    "final_accuracy",
    "mean_accuracy",
    "final_macro_accuracy",
    "mean_macro_accuracy",
    "zero_shot_accuracy",
    "labels_used",
    "pseudo_label_precision",
    "seconds",
    "error",
]
CURVE_COLUMNS = [
    *KEYS,
    "round",
    "labels",
    "accuracy",
    "macro_accuracy",
    "pseudo_labels",
    "pseudo_label_precision",
    "ms_indicator",
    "reward",
    "seconds",
]


def collect(plan: Plan, waiting: str = "waiting") -> tuple[pd.DataFrame, pd.DataFrame]:
    """(results, curves) of all runs of a plan, in its order.

    A run's `status` is finished, failed (`error` says why), interrupted, or `waiting` where it has not begun. Only
    finished runs have numbers. Accuracies are fractions, `seconds` the time of the run itself.
    """
    results: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for each in plan.cells:
        keys = {key: getattr(each, key) for key in KEYS}
        row, rounds = _read(plan, each, waiting)
        results.append({**keys, **row})
        curves += [{**keys, **item} for item in rounds]
    return _frame(results, RESULT_COLUMNS), _frame(curves, CURVE_COLUMNS)


def unlisted(out: Path, listed: Collection[str]) -> list[str]:
    """Names of folders in `out`/runs whose runs have finished and are not among those `listed`."""
    runs = out / RUNS
    others = (path for path in sorted(runs.iterdir()) if path.name not in listed) if runs.is_dir() else ()
    return [path.name for path in others if _has_finished(path)]


def unlisted_text(names: Sequence[str]) -> str:
    """Which finished runs the tables lack, and why; empty where they lack none."""
    if not names:
        return ""
    runs = "1 finished run" if len(names) == 1 else f"{len(names):,} finished runs"
    them = "it" if len(names) == 1 else "them"
    return (
        f"The tables lack {runs} of this folder that the command doesn't list ({RUNS}/{names[0]}"
        f"{', ...' if names[1:] else ''}): list {them} again, with --resume, to have {them} in."
    )


def _has_finished(folder: Path) -> bool:
    try:
        return (folder / SUMMARY).is_file() and read_summary(folder)["status"] == "finished"
    except DamagedFile:
        return False


def write_csv(out: Path, results: pd.DataFrame, curves: pd.DataFrame) -> None:
    """Both files, whole or not at all."""
    write_text(out / RESULTS, _csv(results))
    write_text(out / CURVES, _csv(curves))


def _csv(frame: pd.DataFrame) -> str:
    """As CSV that no spreadsheet runs, whatever stands in names and errors."""
    texts = {name: frame[name].map(cell) for name in frame.columns if frame[name].dtype == object}
    return str(frame.assign(**texts).to_csv(index=False, lineterminator="\n"))


def read_csv(out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `write_csv` wrote."""
    texts = ("error", "strategy", "self_training", "dataset")
    results, curves = (pd.read_csv(out / name, dtype=dict.fromkeys(texts, str)) for name in (RESULTS, CURVES))
    for frame in (results, curves):
        for column in frame.columns.intersection(texts):
            frame[column] = frame[column].fillna("").map(plain_cell)
    return _frame(results.to_dict("records"), RESULT_COLUMNS), _frame(curves.to_dict("records"), CURVE_COLUMNS)


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=columns)
    for name in ("labels_per_class", "labels_used"):
        if name in frame:
            frame[name] = frame[name].astype("Int64")  # whole numbers with gaps
    return frame


def _read(plan: Plan, cell: Cell, waiting: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    summary = read_summary(cell.folder) if (cell.folder / SUMMARY).exists() else None
    error = error_of(plan, cell)
    if summary is None or summary["status"] != "finished":
        begun = summary is not None or (cell.folder / "checkpoints").is_dir()
        return {"status": "failed" if error else "interrupted" if begun else waiting, "error": error}, []
    return summary_row(summary), summary_rounds(summary)


def summary_row(summary: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a finished run's `summary.json`.

    `mean_accuracy` and `mean_macro_accuracy` are plain means over the rounds; `pseudo_label_precision` is the share of
    right ones among all pseudo-labels that were retained in any round. A run without rounds is its zero-shot self.
    """
    rounds = summary["rounds"]
    if not rounds:
        final, macro = summary["zero_shot_accuracy"], summary["zero_shot_macro_accuracy"]
        mean, mean_macro = final, macro
    else:
        final, macro = summary["final_accuracy"], summary["final_macro_accuracy"]
        mean = math.fsum(row["test_accuracy"] for row in rounds) / len(rounds)
        mean_macro = math.fsum(row["test_macro_accuracy"] for row in rounds) / len(rounds)
    retained = [(row["pseudo_labels"], row["pseudo_label_precision"]) for row in rounds if row["pseudo_labels"]]
    right = math.fsum(count * precision for count, precision in retained)
    return {
        "status": "finished",
        "final_accuracy": final,
        "mean_accuracy": mean,
        "final_macro_accuracy": macro,
        "mean_macro_accuracy": mean_macro,
        "zero_shot_accuracy": summary["zero_shot_accuracy"],
        "labels_used": summary["labels_used"],
        "pseudo_label_precision": right / sum(count for count, _ in retained) if retained else None,
        "seconds": round(summary["wall_seconds"], 2),
        "error": "",
    }


def summary_rounds(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per round, the zero-shot start being round 0."""
    start = {
        "round": 0,
        "labels": 0,
        "accuracy": summary["zero_shot_accuracy"],
        "macro_accuracy": summary["zero_shot_macro_accuracy"],
    }
    return [start] + [
        {
            "round": row["round"],
            "labels": row["labels_total"],
            "accuracy": row["test_accuracy"],
            "macro_accuracy": row["test_macro_accuracy"],
            "pseudo_labels": row["pseudo_labels"],
            "pseudo_label_precision": row["pseudo_label_precision"],
            "ms_indicator": row["ms_indicator"],
            "reward": row["reward"],
            "seconds": round(math.fsum(row["seconds"].values()), 3),
        }
        for row in summary["rounds"]
    ]
