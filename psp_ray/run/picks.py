"""`picks.parquet`: every image that was asked about, why, and what was thought of it before the answer came.

A round's draw probabilities and the classifier's logits are in the state; what self-training had taken an image for is
in the checkpoint before, which is still there when a round is written. Rounds before that are taken over from the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from psp_ray.core.answers import answer_name
from psp_ray.core.files import write_parquet
from psp_ray.core.probability import softmax
from psp_ray.core.records import Float32Array, Int32Array
from psp_ray.core.sealed import DamagedFile
from psp_ray.run.checkpoint import pseudo_labels_after
from psp_ray.run.state import PoolNames, RunState

PICKS = "picks.parquet"
NOBODY = -1
"""Index of the class of an image without a pseudo-label."""
_TAKEN = {
    "sample_id": pa.string(),
    "round": pa.int32(),
    "pseudo_class": pa.int32(),
    "pseudo_confidence": pa.float32(),
}
"""What is taken over from round to round."""


def plan_word(behind: float) -> str | None:
    """What the policy's plan had said of an image: `first` choice, `reserve`, `none`; None: no plan is known."""
    if math.isnan(behind):
        return None
    return "none" if math.isinf(behind) else "reserve" if behind > 1e-9 else "first"


def read_picks(out: Path) -> pa.Table | None:
    """The file of the run in `out`; None where it has none. Raises DamagedFile for one that psp-ray didn't write so."""
    path = out / PICKS
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException):
        raise DamagedFile(path, "is damaged") from None
    if any(name not in table.column_names or table[name].type != kind for name, kind in _TAKEN.items()):
        raise DamagedFile(path, "is not what psp-ray writes there")
    return table


def write_picks(
    out: Path, checkpoints: Path, state: RunState, names: PoolNames, warn: Callable[[str], None] = lambda text: None
) -> None:
    """Write the file anew, in the order asked; initial labels, which nobody picked, are not in it.

    `warn` hears of a damaged one, and of what that cost.
    """
    rows = np.flatnonzero(state.asked_in > 0)
    taken, sure = _taken_for(out, checkpoints, state, names, warn)
    chances = softmax(state.logits[rows].astype(np.float64)) if len(rows) else np.zeros((0, 2))
    order = np.argsort(-chances, axis=1, kind="stable")[:, :2]
    classes = [*names.classes, None]
    left = len(names.sample_ids) - np.searchsorted(state.asked_in, state.asked_in[rows], side="left")

    plan = pa.array([plan_word(behind) for behind in state.grounds.behind_plan[rows].tolist()], pa.string())

    def named(index: Int32Array) -> pa.Array:
        return pa.array([classes[i] for i in index.tolist()], pa.string())

    columns = {
        "sample_id": pa.array(names.named(state.asked[rows]), pa.string()),
        "round": state.asked_in[rows],
        "label": pa.array([answer_name(i, names.classes) for i in state.answers[rows].tolist()], pa.string()),
        "by_chance": state.by_chance[rows],
        "log_prob": pa.array(state.log_prob[rows], from_pandas=True),
        "unlabeled": left.astype(np.int64),
        "guess": named(order[:, 0].astype(np.int32)),
        "probability": np.take_along_axis(chances, order[:, :1], axis=1)[:, 0],
        "second_guess": named(order[:, 1].astype(np.int32)),
        "second_probability": np.take_along_axis(chances, order[:, 1:], axis=1)[:, 0],
        "pseudo_label": named(taken[rows]),
        "pseudo_class": taken[rows],
        "pseudo_confidence": pa.array(sure[rows], from_pandas=True),
        "plan": plan,
        "policy_weight": pa.array(state.grounds.policy_weight[rows], from_pandas=True),
        "doubt": pa.array(state.grounds.doubt[rows], from_pandas=True),
    }
    write_parquet(out / PICKS, pa.table(columns))


def _taken_for(
    out: Path, checkpoints: Path, state: RunState, names: PoolNames, warn: Callable[[str], None]
) -> tuple[Int32Array, Float32Array]:
    """What self-training took each of `asked` (m,) for before it was asked: class (or NOBODY), confidence (or NaN)."""
    told: dict[tuple[str, int], tuple[int, float]] = {}
    before = None
    try:
        table = read_picks(out)
        if table is not None:
            told = {(row["sample_id"], row["round"]): _told(row) for row in table.select(list(_TAKEN)).to_pylist()}
        before = pseudo_labels_after(checkpoints, state.round - 1)
    except DamagedFile as error:
        warn(f"{error.path} {error.reason}; what self-training had taken some images for is lost")
    if before is not None:  # written by this version, so it names its samples
        rows = zip(*(before[name].to_pylist() for name in ("sample_id", "label", "confidence")), strict=True)
        told |= {(name, state.round): (label, confidence) for name, label, confidence in rows}
    asked = zip(names.named(state.asked), state.asked_in.tolist(), strict=True)
    found = [told.get(key, (NOBODY, np.nan)) for key in asked]
    return np.array([one for one, _ in found], np.int32), np.array([two for _, two in found], np.float32)


def _told(row: dict[str, Any]) -> tuple[int, float]:
    confidence = row["pseudo_confidence"]
    return row["pseudo_class"], np.nan if confidence is None else confidence
