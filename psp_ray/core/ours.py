"""Folders that psp-ray writes: whatever lies below a data set's folder, they are never read as a part of it."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from psp_ray.core.files import write_text

MARK = ".psp-ray"
_COPIES = "checkpoints"
_TEXT = "psp-ray wrote this folder; it is left out where a folder above it is read as a data set.\n"


def mark(folder: Path) -> None:
    """Mark a folder as written by psp-ray. Raises OutputError where it can't be written."""
    if not (folder / MARK).exists():
        write_text(folder / MARK, _TEXT)


def is_ours(folder: str | os.PathLike[str], names: Collection[str] | None = None) -> bool:
    """Whether psp-ray wrote the folder: it is marked, or is a run's. `names`: what lies in it, where that is known."""

    def has(name: str) -> bool:
        return os.path.exists(os.path.join(folder, name)) if names is None else name in names

    return has(MARK) or (has("run.json") and (has("config.yaml") or has(_COPIES)))


def run_above(path: Path) -> Path | None:
    """The folder of the run that `path` lies in; None where it lies in no run's."""
    above = [folder for folder in path.parents if folder.name != _COPIES]
    return next((folder for folder in above if any((folder / name).exists() for name in ("run.json", _COPIES))), None)


def below_ours(path: Path, root: Path) -> bool:
    """Whether one of the folders between `root` and the file `path` is ours; `root` itself may be."""
    return any(is_ours(folder) for folder in path.parents if folder != root and root in folder.parents)
