"""Checkpoints: one folder a round, complete or absent, and whole or not believed.

A checkpoint is written into a hidden folder, flushed, renamed, and only then given its marker `COMPLETE`, which holds
the checksums of its files; whatever lacks the marker is ignored and removed. A file that is damaged, cut short or gone
since then costs a round, not the run: the newest checkpoint that is whole counts. Only safetensors, Parquet and JSON
are stored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from psp_ray.core.files import (
    make_folder,
    read_tensors,
    remove_tree,
    sync_folder,
    write_json,
    write_parquet,
    write_tensors,
)
from psp_ray.core.records import StateDict
from psp_ray.core.sealed import DamagedFile, Document, file_digest, read_document, read_object, write_sealed
from psp_ray.core.writing import writing

MARKER = "COMPLETE"
KEEP = 2
"""Complete checkpoints kept: the newest, and the one before in case a disk fails under the newest."""
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on after `round`: JSON-able `state`, tensors by component, tables by name."""

    round: int
    state: dict[str, Any]
    tensors: dict[str, StateDict] = field(default_factory=dict)
    tables: dict[str, pa.Table] = field(default_factory=dict)


class Seals(Document):
    """What the marker holds: the digest of each file. Markers of older versions are empty."""

    files: dict[str, str]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` under `folder` and drop all but the newest `KEEP`. Returns its path.

    Raises:
        OutputError: it can't be written; the checkpoints before it are as they were.
    """
    make_folder(folder)
    final = folder / f"round_{checkpoint.round:03d}"
    aside = folder / f".{final.name}.tmp"
    for stale in (aside, final):
        remove_tree(stale)
    make_folder(aside)
    for name, tensors in checkpoint.tensors.items():
        write_tensors(aside / f"{name}.safetensors", tensors)
    for name, table in checkpoint.tables.items():
        write_parquet(aside / f"{name}.parquet", table)
    write_json(aside / STATE, checkpoint.state)
    seals = {path.name: file_digest(path) for path in sorted(aside.iterdir())}
    with writing(final):
        os.replace(aside, final)
        sync_folder(folder)
    write_sealed(final / MARKER, {"files": seals})
    for old in _complete(folder)[:-KEEP]:
        _drop(old)
    return final


def load_latest(folder: Path, told: Callable[[str], None] = lambda text: None) -> Checkpoint | None:
    """The newest checkpoint under `folder` that is complete and whole, or None.

    What is damaged is removed, since its round is done again; `told` hears which and why.

    Raises:
        OutputError: it can't be removed.
    """
    damaged: list[str] = []
    found = None
    for path in reversed(_complete(folder)):
        try:
            found = _load(path)
            break
        except DamagedFile as error:
            damaged.append(f"{error.path.relative_to(folder)} {error.reason}")
            _drop(path)
    if damaged:
        rest = f"going on from round {found.round}" if found else "no checkpoint is whole, beginning with round 1"
        told(f"{folder}: {', '.join(damaged)}; {rest} (labels in the ledger are not paid again)")
    return found


def newest(folder: Path) -> Checkpoint | None:
    """The same for who only looks, perhaps while the run goes on: what is damaged is passed over and stays."""
    for path in reversed(_complete(folder)):
        try:
            return _load(path)
        except DamagedFile:
            continue
    return None


def latest_round(folder: Path) -> int:
    """The round of the newest complete checkpoint under `folder`, 0 where there is none."""
    complete = _complete(folder)
    return _number(complete[-1]) if complete else 0


def drop_checkpoint(folder: Path, number: int) -> None:
    """Forget the checkpoint of round `number`, so that it is done again."""
    path = folder / f"round_{number:03d}"
    if (path / MARKER).exists():
        _drop(path)


def _drop(path: Path) -> None:
    with writing(path):
        (path / MARKER).unlink()  # first, so that a half-removed folder is never taken for a checkpoint
    remove_tree(path)


def _load(path: Path) -> Checkpoint:
    """Raises DamagedFile for the first file that is not what was written."""
    marker = path / MARKER
    if marker.stat().st_size:
        for name, digest in read_document(marker, Seals).files.items():
            now = file_digest(path / name)
            if now != digest:
                raise DamagedFile(path / name, "is missing or unreadable" if now is None else "is damaged")
    return Checkpoint(
        round=_number(path),
        state=read_object(path / STATE),
        tensors={item.stem: _read(item, read_tensors) for item in sorted(path.glob("*.safetensors"))},
        tables={item.stem: _read(item, pq.read_table) for item in sorted(path.glob("*.parquet"))},
    )


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except (OSError, ValueError, KeyError, pa.ArrowException, SafetensorError):
        raise DamagedFile(path, "is damaged") from None


def _complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if re.fullmatch(r"round_\d+", path.name))
    return sorted((path for path in found if (path / MARKER).exists()), key=_number)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("round_"))


def text_after(folder: Path, number: int) -> StateDict | None:
    """The classifier in the checkpoint of round `number`, if it is there: tensors of `prompt`. Raises DamagedFile."""
    path = folder / f"round_{number:03d}"
    return _read(path / "prompt.safetensors", read_tensors) if (path / MARKER).exists() else None
