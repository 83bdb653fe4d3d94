"""`picks.parquet`: every image that was asked about, why, and what was thought of it before the answer came.

All of it is in the state, and so in every checkpoint: a file that is lost is written anew. What self-training had taken
an image for is not in checkpoints of older versions; there it is taken over from the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from psp_ray.core.answers import answer_name
from psp_ray.core.files import write_parquet
from psp_ray.core.probability import softmax
from psp_ray.core.records import CAME, NOBODY, Float64Array, Int32Array
from psp_ray.core.sealed import DamagedFile
from psp_ray.run.folder import PICKS
from psp_ray.run.state import PoolNames, RunState

_TAKEN = {
    "sample_id": pa.string(),
    "round": pa.int32(),
    "pseudo_class": pa.int32(),
    "pseudo_confidence": pa.float32(),
}
"""What is taken over where the checkpoint doesn't say it."""


def plan_word(behind: float) -> str | None:
    """What the policy's plan had said of an image: `first` choice, `reserve`, `none`; None: no plan is known."""
    if math.isnan(behind):
        return None
    return "none" if math.isinf(behind) else "reserve" if behind > 1e-9 else "first"


def unasked_word(came: float) -> str | None:
    """How an answer came that the query set didn't ask for, of `CAME`; None: it did, or an older psp-ray wrote it."""
    return None if math.isnan(came) or came == 0 else CAME[int(came)]


def read_picks(path: Path) -> pa.Table | None:
    """A table of picks; None where there is no such file. Raises DamagedFile for one that psp-ray didn't write so."""
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException):
        raise DamagedFile(path, "is damaged") from None
    if any(name not in table.column_names or table[name].type != kind for name, kind in _TAKEN.items()):
        raise DamagedFile(path, "is not what psp-ray writes there")
    return table


def write_picks(out: Path, state: RunState, names: PoolNames, warn: Callable[[str], None] = lambda text: None) -> None:
    """Write the file anew, in the order asked; initial labels, which nobody picked, are not in it.

    `warn` hears of a damaged one, where that cost something.
    """
    table = picks_of(out, state, names.named(state.asked), names.classes, len(names.sample_ids), warn)
    write_parquet(out / PICKS, table)


def picks_of(
    out: Path,
    state: RunState,
    sample_ids: Sequence[str],
    class_names: Sequence[str],
    n_pool: int,
    warn: Callable[[str], None] = lambda text: None,
) -> pa.Table:
    """What stands in `picks.parquet` of the run in `out`. `sample_ids`: names (m,) of `state.asked`; `n_pool`: images
    of the pool. `warn` as in `write_picks`."""
    rows = np.flatnonzero(state.asked_in > 0)
    taken, sure = _taken_for(out, state, sample_ids, warn)
    chances = softmax(state.logits[rows].astype(np.float64)) if len(rows) else np.zeros((0, 2))
    order = np.argsort(-chances, axis=1, kind="stable")[:, :2]
    classes = [*class_names, None]
    left = n_pool - np.searchsorted(state.asked_in, state.asked_in[rows], side="left")
    plan = pa.array([plan_word(behind) for behind in state.grounds.behind_plan[rows].tolist()], pa.string())

    def named(index: Int32Array) -> pa.Array:
        return pa.array([classes[i] for i in index.tolist()], pa.string())

    columns = {
        "sample_id": pa.array([sample_ids[row] for row in rows.tolist()], pa.string()),
        "round": state.asked_in[rows],
        "label": pa.array([answer_name(i, class_names) for i in state.answers[rows].tolist()], pa.string()),
        "by_chance": state.by_chance[rows],
        "log_prob": pa.array(state.log_prob[rows], from_pandas=True),
        "unlabeled": left.astype(np.int64),
        "guess": named(order[:, 0].astype(np.int32)),
        "probability": np.take_along_axis(chances, order[:, :1], axis=1)[:, 0],
        "second_guess": named(order[:, 1].astype(np.int32)),
        "second_probability": np.take_along_axis(chances, order[:, 1:], axis=1)[:, 0],
        "pseudo_label": named(taken[rows]),
        "pseudo_class": taken[rows],
        "pseudo_confidence": pa.array(sure[rows].astype(np.float32), from_pandas=True),
        "plan": plan,
        "policy_weight": pa.array(state.grounds.policy_weight[rows], from_pandas=True),
        "doubt": pa.array(state.grounds.doubt[rows], from_pandas=True),
        "unasked": pa.array([unasked_word(came) for came in state.grounds.came[rows].tolist()], pa.string()),
    }
    return pa.table(columns)


def _taken_for(
    out: Path, state: RunState, sample_ids: Sequence[str], warn: Callable[[str], None]
) -> tuple[Int32Array, Float64Array]:
    """What self-training took each of `asked` (m,) for before it was asked: class (or NOBODY), confidence (or NaN)."""
    taken, sure = state.grounds.pseudo_class.copy(), state.grounds.pseudo_confidence.copy()
    unknown = np.flatnonzero(np.isnan(taken) & (state.asked_in > 0))
    told: dict[tuple[str, int], tuple[int, float]] = {}
    if len(unknown):
        try:
            table = read_picks(out / PICKS)
            rows = [] if table is None else table.select(list(_TAKEN)).to_pylist()
            told = {(row["sample_id"], row["round"]): _told(row) for row in rows}
        except DamagedFile as error:
            warn(f"{error.path} {error.reason}; what self-training had taken some images for is lost")
    for row in unknown.tolist():
        taken[row], sure[row] = told.get((sample_ids[row], int(state.asked_in[row])), (NOBODY, np.nan))
    return np.where(np.isnan(taken), NOBODY, taken).astype(np.int32), sure


def _told(row: dict[str, Any]) -> tuple[int, float]:
    confidence = row["pseudo_confidence"]
    return row["pseudo_class"], np.nan if confidence is None else confidence
