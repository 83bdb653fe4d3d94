"""Lists of images: a CSV or Parquet file with a path (or the bytes), perhaps a label and a split, for each image.

Also read as they are: folders of Parquet files with image bytes, as Hugging Face `datasets` writes them.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psp_ray.core.answers import UnknownLabel
from psp_ray.core.errors import DatasetError
from psp_ray.core.ours import below_ours
from psp_ray.core.paths import is_folder, local_text
from psp_ray.core.tables import TableError, read_table
from psp_ray.core.words import reason_of
from psp_ray.data.classes import ClassList
from psp_ray.data.columns import (
    ID_COLUMNS,
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    PART_OF,
    PATH_COLUMNS,
    SPLIT_COLUMNS,
    class_label_names,
    locate,
    whole,
)
from psp_ray.data.dataset import Dataset, make_dataset
from psp_ray.data.images import is_url, read_file
from psp_ray.data.labels import LabelReader, class_of, label_text, names_of
from psp_ray.data.parts import stratified_parts

SUFFIXES = (".csv", ".tsv", ".parquet", ".pq")


@dataclass
class Rows:
    """What a manifest says, a row per image: `paths` or `images`; labels and splits are texts, or empty."""

    source: str
    ids: list[str] = field(default_factory=list)
    paths: list[str | None] = field(default_factory=list)
    images: list[bytes | None] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    """Line (CSV) or row (Parquet) numbers, for messages."""
    has_splits: bool = False
    class_names: list[str] | None = None
    """Where the file itself names the classes of its label numbers."""
    notes: list[str] = field(default_factory=list)
    """What is worth saying of what was read."""

    def where(self, row: int) -> str:
        return f"{self.source}:{self.lines[row]}"

    def label(self, value: Any) -> str:
        """The text of the label of the row that was added last (see `psp_ray.data.labels`)."""
        try:
            return label_text(value)
        except UnknownLabel as error:
            raise DatasetError(f"{self.where(-1)}: {error}") from None

    def add(self, other: Rows) -> None:
        """Append the rows of another file of the same data set."""
        for mine, theirs in (
            (self.ids, other.ids),
            (self.paths, other.paths),
            (self.images, other.images),
            (self.labels, other.labels),
            (self.splits, other.splits),
            (self.lines, other.lines),
            (self.notes, other.notes),
        ):
            mine.extend(theirs)  # type: ignore[arg-type]
        self.has_splits |= other.has_splits
        self.class_names = self.class_names or other.class_names

    def take(self, chosen: Sequence[int]) -> Rows:
        """Some of the rows."""
        return Rows(
            self.source,
            [self.ids[row] for row in chosen],
            [self.paths[row] for row in chosen],
            [self.images[row] for row in chosen],
            [self.labels[row] for row in chosen],
            [self.splits[row] for row in chosen],
            [self.lines[row] for row in chosen],
            self.has_splits,
            self.class_names,
            self.notes,
        )


def is_manifest(name: str) -> bool:
    """Whether a `--dataset` or `--test` value names a manifest file, local or by URL."""
    return name.lower().endswith(SUFFIXES) and (is_url(name) or not is_folder(name))


def read_manifest(name: str) -> Rows:
    """Read a CSV (`.csv`, `.tsv`) or Parquet file; paths in it are absolute, URLs, or relative to the file's folder.

    Raises:
        DatasetError: missing, unreadable, or without a column of paths or images.
    """
    name = local_text(name)
    try:
        data = read_file(name)
    except ValueError as error:
        raise DatasetError(f"manifest {name}: can't be read ({error}); check the path") from None
    base = posixpath.dirname(name) if is_url(name) else os.path.dirname(os.path.abspath(name))
    if name.lower().endswith((".csv", ".tsv")):
        return from_csv(name, data, base)
    try:
        table = whole(pq.read_table(io.BytesIO(data)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"manifest {name}: not a Parquet file ({reason_of(error)})") from None
    return from_tables(name, [("", table)], base)


def from_csv(name: str, data: bytes, base: str) -> Rows:
    """Rows of a CSV, whatever its delimiter (`.tsv`: tabs); paths relative to `base`.

    Raises:
        DatasetError: not text, not CSV, without a column of paths, or a row without one.
    """
    try:
        table = read_table(data, "\t" if name.lower().endswith(".tsv") else None)
    except TableError as error:
        where = f"{name}:{error.line}: {error}" if error.line else f"manifest {name}: {error}; save it as UTF-8"
        raise DatasetError(where) from None
    columns = table.header
    path, label, split, ident = (_column(columns, c) for c in (PATH_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS, ID_COLUMNS))
    path = path or _column(columns, ("image",))
    if path is None:
        raise DatasetError(f"manifest {name}: no column 'path' (columns: {', '.join(columns) or 'none'}); add one")
    rows = Rows(name, has_splits=split is not None)
    for line, record in table.rows():
        place = record[path].strip()
        if not place:
            raise DatasetError(f"{name}:{line}: no path; fill it in or remove the line")
        rows.ids.append(record[ident].strip() or place if ident else place)
        rows.paths.append(locate(place, base))
        rows.images.append(None)
        rows.splits.append(record[split].strip() if split else "")
        rows.lines.append(line)
        rows.labels.append(rows.label(record[label] if label else ""))
    return rows


def from_tables(source: str, tables: Sequence[tuple[str, pa.Table]], base: str) -> Rows:
    """Rows of (split, table) pairs; a split of "" is to be looked for in the table.

    Image columns may hold bytes, or structs of `bytes` and `path` as Hugging Face `datasets` writes them.

    Raises:
        DatasetError: no column of paths or images, or a row without either.
    """
    rows = Rows(source, has_splits=any(split for split, _ in tables))
    for given_split, table in tables:
        columns = {name.lower(): name for name in table.column_names}
        image, path, label, split, ident = (
            columns.get(_column(list(columns), kind) or "")
            for kind in (IMAGE_COLUMNS, PATH_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS, ID_COLUMNS)
        )
        if image is None and path is None:
            found = ", ".join(table.column_names) or "none"
            raise DatasetError(f"{source}: no column 'path' or 'image' (columns: {found}); add one")
        rows.has_splits |= split is not None
        names = class_label_names(table.schema, label)
        rows.class_names = rows.class_names or names
        pictures: list[Any] = [None] * table.num_rows if image is None else table[image].to_pylist()
        places = [None] * table.num_rows if path is None else table[path].to_pylist()
        texts = [None] * table.num_rows if label is None else table[label].to_pylist()
        parts = [given_split] * table.num_rows if split is None else table[split].to_pylist()
        idents = [None] * table.num_rows if ident is None else table[ident].to_pylist()
        for number, (picture, place, text, part, name) in enumerate(
            zip(pictures, places, texts, parts, idents, strict=True), 1
        ):
            if isinstance(picture, dict):
                place, picture = place or picture.get("path"), picture.get("bytes")
            elif isinstance(picture, str):
                place, picture = place or picture, None
            if picture is None and not place:
                raise DatasetError(f"{source}:{number}: neither a path nor an image; remove the row")
            rows.images.append(picture)
            rows.paths.append(None if picture is not None else locate(str(place), base))
            rows.ids.append(str(name if name is not None else place or ""))
            rows.splits.append(str(part or ""))
            rows.lines.append(number)
            known = names is not None and isinstance(text, int) and 0 <= text < len(names)
            rows.labels.append(names[text] if known and names is not None else rows.label(text))
    if len(set(rows.ids)) != len(rows.ids) or "" in rows.ids:
        # Names inside the bytes' structs are often missing or the same in several splits.
        width = len(str(len(rows.ids)))
        rows.ids = [f"{rows.splits[i] or 'row'}/{i:0{width}d}" for i in range(len(rows.ids))]
    return rows


def dataset_of(
    name: str, rows: Rows, classes: ClassList | None, *, has_test: bool, notes: Sequence[str] = ()
) -> Dataset:
    """A data set from a manifest's rows.

    Without splits, a manifest that labels every row is cut like a folder of class folders (70 % pool, 10 % val, 20 %
    test; with `has_test` no test part); one that doesn't is all pool. What labels are, `psp_ray.data.labels` says.

    Raises:
        DatasetError: no rows, no class names, an unknown label or split, images that are not there.
    """
    if not rows.ids:
        raise DatasetError(f"{rows.source}: lists no image; add rows")
    names, unsure = _names(rows, classes)
    read = LabelReader(names)
    labels = [_label(rows, row, read) for row in range(len(rows.ids))]
    if rows.has_splits:
        splits = [_part(rows, row) for row in range(len(rows.ids))]
        if has_test:
            splits = ["pool" if part == "test" else part for part in splits]
    elif all(label is not None for label in labels):
        known = [label for label in labels if label is not None]
        splits = stratified_parts(rows.ids, known, val=0.1, test=0.0 if has_test else 0.2)
    else:
        splits = ["pool"] * len(rows.ids)
    for row, (split, label) in enumerate(zip(splits, labels, strict=True)):
        if split != "pool" and label is None:
            raise DatasetError(f"{rows.where(row)}: a {split} image without a label; label it or move it to the pool")
    require_local_files(rows)
    return make_dataset(
        name,
        names,
        rows.ids,
        splits,
        labels,
        paths=rows.paths,
        images=rows.images,
        descriptions=descriptions(classes),
        notes=[*notes, *unsure],
    )


def descriptions(classes: ClassList | None) -> dict[str, list[str]]:
    return {} if classes is None else classes.descriptions


def require_local_files(rows: Rows) -> None:
    """Raise a DatasetError that counts the local files that are not there and names the first."""
    absent = [
        i for i, path in enumerate(rows.paths) if path is not None and not is_url(path) and not os.path.isfile(path)
    ]
    if absent:
        raise DatasetError(
            f"{rows.where(absent[0])}: {rows.paths[absent[0]]} does not exist ({len(absent)} of {len(rows.ids)} images "
            "are not there); paths are taken relative to the manifest's folder"
        )


def _names(rows: Rows, classes: ClassList | None) -> tuple[list[str], list[str]]:
    """(class names, notes on labels that were taken for none)."""
    if classes is not None:
        return classes.names, []
    if rows.class_names is not None:
        return rows.class_names, []
    found, notes = names_of(rows.labels)
    if not found:
        raise DatasetError(f"{rows.source}: no labels and so no class names; give them with --classes a,b,c or a file")
    return found, notes


def _label(rows: Rows, row: int, read: LabelReader) -> int | None:
    try:
        return class_of(rows.labels[row], read)
    except UnknownLabel as error:
        raise DatasetError(f"{rows.where(row)}: {error}") from None


def _part(rows: Rows, row: int) -> str:
    part = PART_OF.get(rows.splits[row].strip().lower())
    if part is None:
        raise DatasetError(f"{rows.where(row)}: split {rows.splits[row]!r} is unknown; use pool, val or test")
    return part


def _column(columns: Sequence[str], known: Sequence[str]) -> str | None:
    return next((name for name in known if name in columns), None)


# ---- folders of Parquet files ----------------------------------------------------------------------------------------

_SPLIT_FILE = re.compile(r"^([A-Za-z_]+?)(?:-\d{5}-of-\d{5}.*|-\d+|_\d+)?\.(?:parquet|pq)$")


def parquet_files(folder: Path) -> list[tuple[str, Path]]:
    """(split, file) pairs of a `datasets` folder: `SPLIT-00000-of-00002.parquet`, `SPLIT.parquet`, also in `data/` or
    one folder a split; empty where there are none."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in (".parquet", ".pq") or any(part.startswith(".") for part in path.parts):
            continue
        if below_ours(path, folder):
            continue
        match = _SPLIT_FILE.match(path.name)
        split = match.group(1).lower() if match else ""
        if split not in PART_OF:
            split = path.parent.name.lower()
        found.append((split if split in PART_OF else "", path))
    return found


def load_parquet_folder(folder: Path, classes: ClassList | None, *, has_test: bool) -> Dataset:
    """A Hugging Face `datasets` folder: Parquet files with image bytes, held in memory.

    Raises:
        DatasetError: as `dataset_of`, or a file that can't be read.
    """
    tables = []
    for split, path in parquet_files(folder):
        try:
            tables.append((split, whole(pq.read_table(path))))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DatasetError(f"{path}: not a Parquet file ({reason_of(error)})") from None
    rows = from_tables(str(folder), tables, str(folder))
    rows.class_names = rows.class_names or _readme_names(folder)
    if rows.class_names:
        names, known = rows.class_names, set(rows.class_names)
        rows.labels = [
            names[int(t)] if t.isdecimal() and t not in known and int(t) < len(names) else t for t in rows.labels
        ]
    return dataset_of(folder.resolve().name or "folder", rows, classes, has_test=has_test)


def _readme_names(folder: Path) -> list[str] | None:
    """Class names from the data card's YAML header, where the Parquet files don't name them."""
    import yaml

    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
        header = yaml.safe_load(text.split("---")[1])
    except (OSError, IndexError, UnicodeDecodeError, yaml.YAMLError):
        return None
    infos = header.get("dataset_info") if isinstance(header, dict) else None
    for info in infos if isinstance(infos, list) else [infos]:
        for feature in info.get("features", []) if isinstance(info, dict) else []:
            kind = feature.get("dtype") if isinstance(feature, dict) else None
            if isinstance(kind, dict) and isinstance(kind.get("class_label"), dict):
                names = kind["class_label"].get("names")
                values = list(names.values()) if isinstance(names, dict) else names
                return [str(name) for name in values] if values else None
    return None
