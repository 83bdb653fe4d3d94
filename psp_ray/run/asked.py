"""`asked.parquet`: the query set that people have before them now, as `picks.parquet` tells of it once it is answered.

It is there while a round waits for labels: the choice is made by then, and `psp-ray explain` says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from psp_ray.core.answers import SKIP
from psp_ray.core.files import write_parquet
from psp_ray.core.records import Float32Array, Proposal
from psp_ray.core.sealed import DamagedFile
from psp_ray.core.writing import writing
from psp_ray.labels.service import LabelResponse
from psp_ray.run.picks import picks_of, read_picks
from psp_ray.run.state import PoolNames, RunState

ASKED_NOW = "asked.parquet"
HASH = "content_hash"
"""A column beside those of `picks.parquet`: what the ledger knows an image by, and so its answer."""


def write_asked(out: Path, state: RunState, proposal: Proposal, logits: Float32Array, names: PoolNames) -> None:
    """Write it for the round that follows `state`; `logits` (k, C) of the classifier that the round begins with."""
    nothing = LabelResponse((), np.full(len(proposal.positions), SKIP, np.int32), 0, 0, state.labels_paid)
    after = state.with_answers(proposal, logits, nothing, names)
    table = picks_of(out, after, names.named(after.asked), names.classes, len(names.sample_ids))
    rows = len(proposal.positions)
    table = table.slice(table.num_rows - rows)
    table = table.set_column(table.schema.get_field_index("label"), "label", pa.nulls(rows, pa.string()))
    hashes = pa.array(names.hashed(after.asked[len(after.asked) - rows :]), pa.string())
    write_parquet(out / ASKED_NOW, table.append_column(HASH, hashes))


def read_asked(out: Path) -> tuple[int, list[dict[str, Any]]] | None:
    """(round, its rows); None where there is no such file. Raises DamagedFile."""
    table = read_picks(out / ASKED_NOW)
    if table is None:
        return None
    rounds = set(table["round"].to_pylist())
    if len(rounds) != 1:
        raise DamagedFile(out / ASKED_NOW, "is not what psp-ray writes there")
    return rounds.pop(), table.to_pylist()


def drop_asked(out: Path) -> None:
    """Nothing is asked any more. Raises OutputError."""
    with writing(out / ASKED_NOW):
        (out / ASKED_NOW).unlink(missing_ok=True)
