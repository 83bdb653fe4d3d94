"""Checkpoints: one folder a round, complete or absent.

A checkpoint is written into a hidden folder, flushed, renamed, and only then given its marker `COMPLETE`; whatever
lacks the marker is ignored and removed. Only safetensors, Parquet and JSON are stored.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psp_ray.core.files import read_json, read_tensors, sync_folder, write_json, write_parquet, write_tensors
from psp_ray.core.records import StateDict

MARKER = "COMPLETE"
KEEP = 2
"""Complete checkpoints kept: the newest, and the one before in case a disk fails under the newest."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on after `round`: JSON-able `state`, tensors by component, tables by name."""

    round: int
    state: dict[str, Any]
    tensors: dict[str, StateDict] = field(default_factory=dict)
    tables: dict[str, pa.Table] = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` under `folder` and drop all but the newest `KEEP`. Returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"round_{checkpoint.round:03d}"
    aside = folder / f".{final.name}.tmp"
    for stale in (aside, final):
        shutil.rmtree(stale, ignore_errors=True)
    aside.mkdir()
    for name, tensors in checkpoint.tensors.items():
        write_tensors(aside / f"{name}.safetensors", tensors)
    for name, table in checkpoint.tables.items():
        write_parquet(aside / f"{name}.parquet", table)
    write_json(aside / "state.json", checkpoint.state)
    os.replace(aside, final)
    sync_folder(folder)
    (final / MARKER).touch()
    sync_folder(final)
    for old in _complete(folder)[:-KEEP]:
        (old / MARKER).unlink()  # first, so that a half-removed folder is never taken for a checkpoint
        shutil.rmtree(old)
    return final


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint under `folder`, or None."""
    complete = _complete(folder)
    if not complete:
        return None
    path = complete[-1]
    return Checkpoint(
        round=_number(path),
        state=read_json(path / "state.json"),
        tensors={item.stem: read_tensors(item) for item in sorted(path.glob("*.safetensors"))},
        tables={item.stem: pq.read_table(item) for item in sorted(path.glob("*.parquet"))},
    )


def latest_round(folder: Path) -> int:
    """The round of the newest complete checkpoint under `folder`, 0 where there is none."""
    complete = _complete(folder)
    return _number(complete[-1]) if complete else 0


def drop_checkpoint(folder: Path, number: int) -> None:
    """Forget the checkpoint of round `number`, so that it is done again."""
    path = folder / f"round_{number:03d}"
    if (path / MARKER).exists():
        (path / MARKER).unlink()
        shutil.rmtree(path)


def _complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.glob("round_*") if (path / MARKER).exists()), key=_number)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("round_"))


def pseudo_labels_after(folder: Path, number: int) -> pa.Table | None:
    """The pseudo-labels in the checkpoint of round `number`, if it is there."""
    path = folder / f"round_{number:03d}"
    return pq.read_table(path / "pseudo.parquet") if (path / MARKER).exists() else None


def text_after(folder: Path, number: int) -> StateDict | None:
    """The classifier in the checkpoint of round `number`, if it is there: tensors of `prompt`."""
    path = folder / f"round_{number:03d}"
    return read_tensors(path / "prompt.safetensors") if (path / MARKER).exists() else None
