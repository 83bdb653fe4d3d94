"""Hugging Face's ImageFolder: `metadata.csv` or `metadata.jsonl` beside the images, for all of them or one a part."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from psp_ray.core.errors import DatasetError
from psp_ray.core.tables import TableError, read_json_lines, read_table
from psp_ray.core.words import reason_of
from psp_ray.data.columns import LABEL_COLUMNS, PATH_COLUMNS, part_of_folder
from psp_ray.data.dataset import Dataset
from psp_ray.data.listing import Listing
from psp_ray.data.manifest import Rows, dataset_of, from_csv, from_tables
from psp_ray.data.registry import Request

METADATA = ("metadata.csv", "metadata.jsonl")
UNLISTED = "not in the folder's metadata"


def metadata_files(root: Path) -> list[tuple[str, Path]]:
    """(part, file) pairs: the metadata of a folder, of its sub-folder `data`, and of folders that are parts.

    The part is "" where no folder tells. Files without a column of file names and one of labels are left alone: their
    images are those of class folders.
    """
    places = [("", root)]
    for folder in [root, root / "data"]:
        if folder != root and folder.is_dir():
            places.append(("", folder))
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) if folder.is_dir() else []
        places += [(part, folder / name) for name in names if (part := part_of_folder(name)) is not None]
    found = [(part, place / name) for part, place in places for name in METADATA if (place / name).is_file()]
    return [(part, file) for part, file in found if _lists_labels(file)]


def load_imagefolder(
    name: str, root: Path, metadata: Sequence[tuple[str, Path]], found: Listing, request: Request
) -> Dataset:
    """The data set of a folder's metadata. Images that none of them lists are left out, with a note.

    Raises:
        DatasetError: as `psp_ray.data.manifest.dataset_of`; a metadata file that can't be read.
    """
    rows = Rows(str(metadata[0][1]))
    for part, file in metadata:
        read = _rows(file)
        if not read.has_splits and any(part for part, _ in metadata):
            read.splits = [part] * len(read.ids)
            rows.has_splits = True
        rows.add(read)
    base = os.path.abspath(root)
    rows.ids = [
        given if path is None else os.path.relpath(path, base).replace(os.sep, "/")
        for given, path in zip(rows.ids, rows.paths, strict=True)
    ]
    listed = set(rows.ids)
    for parts in found.files:
        if "/".join(parts) not in listed:
            found.skip(parts, UNLISTED)
    return dataset_of(
        name, rows, request.classes, has_test=request.has_test, notes=[*_without(found, metadata, root), *rows.notes]
    )


def _without(found: Listing, metadata: Sequence[tuple[str, Path]], root: Path) -> list[str]:
    """Notes on what was left out, but for the metadata themselves."""
    own = {file.relative_to(root).as_posix() for _, file in metadata}
    for reason, names in found.skipped.items():
        found.skipped[reason] = [name for name in names if name not in own]
    return found.notes()


def _rows(file: Path) -> Rows:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{file}: can't be read ({error.strerror}); change its permissions") from None
    base = os.path.abspath(file.parent)
    if file.suffix == ".csv":
        return from_csv(str(file), data, base)
    try:
        records = [record for _, record in read_json_lines(io.StringIO(data.decode("utf-8-sig", "replace")))]
    except TableError as error:
        raise DatasetError(f"{file}:{error.line}: {error}; repair the line") from None
    names = {name.lower(): name for record in records for name in record}
    wanted = [names[name] for name in (*PATH_COLUMNS, *LABEL_COLUMNS) if name in names]
    columns = {}
    for name in wanted:
        try:
            columns[name] = pa.array([record.get(name) for record in records])
        except (pa.ArrowException, ValueError, OverflowError) as error:  # of other types; half a character; too large
            raise DatasetError(f"{file}: {name}: {reason_of(error)}; use one type") from None
    return from_tables(str(file), [("", pa.table(columns))], base)


def _lists_labels(file: Path) -> bool:
    """Whether a metadata file names files and labels, by its header or first line."""
    try:
        with open(file, encoding="utf-8-sig", errors="replace") as handle:
            first = next((line for line in handle if line.strip()), "")
    except OSError:
        return False
    try:
        if file.suffix == ".jsonl":
            names = {str(name).lower() for name in json.loads(first)}
        else:
            names = set(read_table(first).header)
    except (ValueError, TypeError, RecursionError):
        return True  # to be named where it is read
    return bool(names & set(PATH_COLUMNS)) and bool(names & set(LABEL_COLUMNS))
