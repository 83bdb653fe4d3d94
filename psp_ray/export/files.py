"""What a run says of its images, in the forms that other programs take: folders, a CSV."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psp_ray.config.config import default_of
from psp_ray.config.paths import seen_from
from psp_ray.core.errors import ConfigError, OutputError, UserError
from psp_ray.core.files import write_bytes, write_lines
from psp_ray.core.ours import mark
from psp_ray.core.paths import is_file, local_path
from psp_ray.core.sealed import DamagedFile
from psp_ray.core.tables import csv_lines
from psp_ray.core.words import printable, reason_of
from psp_ray.core.writing import writing
from psp_ray.data.dataset import Dataset
from psp_ray.run.classes import classes_of
from psp_ray.run.folder import PREDICTIONS, PROMPTS, home_of, read_run, read_summary, require_as_written
from psp_ray.run.prompts import read_prompts
from psp_ray.run.remains import settings_in, written_by

_OF_DATA = ("dataset", "data_root", "split", "classes", "test", "exclude", "allow_remote")
"""The settings that say which images a run is about."""
_COLUMNS = ("sample_id", "path", "class", "probability", "source")
_CSV_INSTEAD = "--csv FILE gives their classes as a table"
UNSURE, NO_CLASS = "_unsure", "_none"


def _predictions(run: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The pool's predictions, row by row. Raises OutputError as `written_by`, ConfigError where they can't be read."""
    path = written_by(local_path(run), PREDICTIONS)
    require_as_written(path)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=list(_COLUMNS)):
                yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ConfigError(
            f"{path}: is damaged ({reason_of(error, 160)}); psp-ray continue {run} writes it anew"
        ) from None


def fresh_folder(folder: str | os.PathLike[str]) -> Path:
    """An empty folder, made where it isn't there. Raises OutputError for a used one, or where it can't be made."""
    path = local_path(folder)
    with writing(path, "choose another folder"):
        path.mkdir(parents=True, exist_ok=True)
        used = any(path.iterdir())
    if used:
        raise OutputError(f"{path}: the folder is not empty; choose another one")
    mark(path)
    return path


def export_csv(run: str | os.PathLike[str], file: str | os.PathLike[str]) -> int:
    """Write the pool's predictions as a CSV (sample_id, path, class, probability, source); returns the rows.

    Raises:
        OutputError: no finished run there, or the file can't be written.
    """
    count = 0

    def lines() -> Iterator[list[str]]:
        nonlocal count
        yield ["sample_id", "path", "class", "probability", "source"]
        for row in _predictions(run):
            count += 1
            chance = "" if row["probability"] is None else f"{row['probability']:.6f}"
            yield [row["sample_id"], row["path"] or "", row["class"] or "", chance, row["source"]]

    write_lines(local_path(file), csv_lines(lines()))
    return count


def export_folders(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    min_probability: float = 0.0,
    copy: bool = False,
    gone: list[str] | None = None,
) -> dict[str, int]:
    """Sort the pool into `folder/CLASS/`, by links or copies; returns how many images each folder got.

    Images that are not there any more are left out; `gone` is told their names.

    Images below `min_probability` go to `_unsure/CLASS`, those that belong to no class to `_none`. A slash in a name
    becomes two underscores; names that would then be the same (or, of classes, those of these two folders) get a short
    hash of the whole name behind them.

    Raises:
        OutputError: no finished run there, no image is left of it, or it was about embeddings; or the folder is used or
            can't be written.
    """
    rows = list(_predictions(run))
    pictures = _bytes_of(run) if any(row["path"] is None for row in rows) else {}
    if all(row["path"] is None and not pictures.get(row["sample_id"]) for row in rows):
        raise OutputError(f"--folders {folder}: {run} was run on embeddings, whose rows have no images; {_CSV_INSTEAD}")
    target = fresh_folder(folder)
    counts: Counter[str] = Counter()
    classes = _folder_names(sorted({row["class"] for row in rows if row["class"] is not None}), (UNSURE, NO_CLASS))
    places = []
    for row in rows:
        place = NO_CLASS
        if row["class"] is not None:
            place = classes[row["class"]]
            if row["probability"] < min_probability:
                place = f"{UNSURE}/{place}"
        places.append((place, _file_name(row)))
    shared = Counter(places)
    for row, (place, name) in zip(rows, places, strict=True):
        if shared[place, name] > 1:
            stem, suffix = os.path.splitext(name)
            name = f"{stem}~{_short_hash(row['sample_id'])}{suffix}"
        with writing(target / place / name):
            put = _put(row["path"], pictures.get(row["sample_id"]), target / place / name, copy)
        if put:
            counts[place] += 1
        elif gone is not None:
            gone.append(row["sample_id"])
    if not counts:
        with writing(target):
            shutil.rmtree(target)
        raise OutputError(f"--folders {folder}: none of the {len(rows):,} images of {run} is there; {_CSV_INSTEAD}")
    return dict(sorted(counts.items()))


def _put(path: str | None, data: bytes | None, target: Path, copy: bool) -> bool:
    """Link, copy or write an image; False where there is none. Raises OSError where it can't be written."""
    from psp_ray.data.images import ImageError, is_url, read_file

    if path is not None and is_url(path):
        try:
            data = read_file(path)
        except ImageError:
            return False
    elif path is not None and not is_file(path):
        return False
    if path is None and data is None:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    if data is not None:
        write_bytes(target, data)
    elif copy:
        shutil.copyfile(str(path), target)
    else:
        target.symlink_to(str(path))
    return True


LONGEST_NAME = 200
"""Bytes of a file's name; file systems take 255, and a hash or an ending may be added."""


def _safe(name: str) -> str:
    """A name that is one part of a path: no slashes, no control characters, no dots in front, not too long."""
    flat = printable(name.replace("\\", "/").replace("/", "__")).replace("\n", "_").replace("\t", "_")
    flat = flat.replace("\\", "_").lstrip(".") or "_"
    if len(flat.encode()) <= LONGEST_NAME:
        return flat
    stem, ending = os.path.splitext(flat)
    ending = ending if len(ending.encode()) <= 16 else ""
    room = LONGEST_NAME - len(ending.encode()) - 9
    kept = stem.encode()[:room].decode("utf-8", "ignore")
    return f"{kept}~{_short_hash(name)}{ending}"


def _file_name(row: dict[str, Any]) -> str:
    """An image's file name; one that was no file before gets a suffix."""
    from psp_ray.data.images import is_url

    name = _safe(row["sample_id"])
    was_file = row["path"] is not None and not is_url(row["path"])
    return name if was_file or os.path.splitext(name)[1] else f"{name}.png"


def _folder_names(names: Sequence[str], taken: Sequence[str]) -> dict[str, str]:
    """A folder name for each class, all distinct."""
    count = Counter(_safe(name) for name in names) + Counter(taken)
    return {name: _safe(name) if count[_safe(name)] == 1 else f"{_safe(name)}~{_short_hash(name)}" for name in names}


def _short_hash(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=4).hexdigest()


def _bytes_of(run: str | os.PathLike[str]) -> dict[str, bytes]:
    """Images of a data set that holds them itself, read anew as the run's settings say."""
    pool = dataset_of_run(run).pool
    return dict(zip(pool["sample_id"].to_pylist(), pool["image"].to_pylist(), strict=True))


def dataset_of_run(run: str | os.PathLike[str]) -> Dataset:
    """The data set that a run was made on.

    Raises:
        OutputError: no run there. DatasetError: the data set has gone.
    """
    from psp_ray.data.load import load_dataset

    out = local_path(run)
    settings = settings_in(out)
    given = seen_from(home_of(out), {key: settings.get(key, default_of(key)) for key in _OF_DATA})
    return load_dataset(
        given["dataset"],
        given["data_root"],
        given["split"],
        classes=given["classes"],
        test=given["test"],
        exclude=given["exclude"],
        allow_remote=bool(given["allow_remote"]),
    )


def name_of_run(run: str | os.PathLike[str]) -> str:
    """A run's name in its ledger, which no other run has; empty where its `run.json` is not to be had."""
    try:
        return read_run(local_path(run)).experiment
    except DamagedFile:
        return ""


def caution_of_run(run: str | os.PathLike[str]) -> str:
    """What must be said of the run's probabilities; empty where nothing need be, or nothing is known."""
    try:
        return read_prompts(run).caution
    except UserError:
        pass
    try:
        found = read_summary(local_path(run)).get("calibration") or {}
    except DamagedFile:
        return ""
    return str(found.get("caution") or "")


def classes_of_run(run: str | os.PathLike[str]) -> list[str]:
    """The class names of a run that may still be under way.

    Raises:
        OutputError: no run there.
    """
    noted = classes_of(local_path(run))
    if noted is not None:
        return noted.names
    if is_file(local_path(run) / PROMPTS):
        return read_prompts(run).classes
    return dataset_of_run(run).classes
