"""Which files embeddings come in: tables, `datasets` saved to disk, exports of FiftyOne and LanceDB."""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from psp_ray.core.errors import DatasetError
from psp_ray.core.paths import local_path
from psp_ray.data.columns import PART_OF
from psp_ray.data.embedded.source import find_embedding, part_of_name
from psp_ray.data.embedded.tables import SUFFIXES, MemoryTable, TableFile, open_table

SAMPLES = "samples.json"
"""FiftyOne's file of samples."""
_STATE, _SPLITS = "state.json", "dataset_dict.json"
"""`datasets` saved to disk: one data set, or one a split in sub-folders."""

Found = tuple[str, TableFile]
"""The part that a file belongs to ("" where its name says nothing), and the file."""


def has_embeddings(name: str) -> bool:
    """Whether a `--dataset` value, an existing file or folder, brings embeddings. Looks at file names and one schema.

    Raises:
        DatasetError: it is a Lance table, or an export whose JSON can't be read.
    """
    path = local_path(name)
    if path.suffix.lower() == ".lance":
        raise DatasetError(
            f"{name}: is a Lance table; export it with pyarrow.parquet.write_table(table.to_arrow(), 'FILE.parquet')"
        )
    if path.is_file():
        if path.name == SAMPLES:
            return True
        suffix = path.suffix.lower()
        if suffix in (".parquet", ".pq"):
            return _brings_embeddings(path)
        return suffix in SUFFIXES
    if not path.is_dir():
        return False
    if (path / _STATE).is_file() or (path / _SPLITS).is_file():
        return True
    if (path / SAMPLES).is_file():
        return _fiftyone_field(_samples(path / SAMPLES)) is not None
    files = _table_files(path)
    return bool(files) and _brings_embeddings(files[0])


def _brings_embeddings(path: Path) -> bool:
    """Whether a table has a column of embeddings. What can't be read is left to those who read images' tables."""
    try:
        return find_embedding(open_table(path).schema) is not None
    except DatasetError:
        return False


def find_tables(name: str) -> list[Found]:
    """The tables of a file or folder for which `has_embeddings` holds, in order.

    Raises:
        DatasetError: one of them can't be read, or is of another kind than the first.
    """
    path = local_path(name)
    if path.is_file():
        return [("", _fiftyone(path) if path.name == SAMPLES else open_table(path))]
    if (path / _SPLITS).is_file():
        splits = _json(path / _SPLITS).get("splits", [])
        return [(_part(str(split)), table) for split in splits for _, table in _saved(path / str(split))]
    if (path / _STATE).is_file():
        return _saved(path)
    if (path / SAMPLES).is_file():
        return [("", _fiftyone(path / SAMPLES))]
    return [(part_of_name(file, tuple(PART_OF)), open_table(file)) for file in _table_files(path)]


def _part(split: str) -> str:
    return split.lower() if split.lower() in PART_OF else ""


def _table_files(folder: Path) -> list[Path]:
    """Tables in a folder, in `data` below it, and in folders named like parts."""
    places = [folder]
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    places += [folder / name for name in names if name.lower() == "data" or name.lower() in PART_OF]
    found: list[Path] = []
    for place in places:
        with os.scandir(place) as entries:
            files = sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))
        found += [place / name for name in files if name.lower().endswith(SUFFIXES)]
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: can't be read as JSON ({error}); export the data set again") from None
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: holds no JSON object; export the data set again")
    return value


def _saved(folder: Path) -> list[Found]:
    """The Arrow files of a data set that `datasets` saved to disk; caches beside them are left alone."""
    entries = _json(folder / _STATE).get("_data_files", [])
    names = [str(entry["filename"]) for entry in entries if isinstance(entry, dict) and "filename" in entry]
    if not names:
        raise DatasetError(f"{folder / _STATE}: names no data file; save the data set again")
    return [("", open_table(folder / name)) for name in names]


# ---- FiftyOne --------------------------------------------------------------------------------------------------------


def _samples(path: Path) -> list[dict[str, Any]]:
    samples = _json(path).get("samples")
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise DatasetError(f"{path}: no list 'samples'; export the data set as FiftyOneDataset")
    return samples


def _fiftyone_field(samples: Sequence[dict[str, Any]]) -> str | None:
    """The first field that holds embeddings."""
    for sample in samples[:1]:
        for name, value in sample.items():
            if not name.startswith("_") and _vector(value) is not None:
                return name
    return None


def _vector(value: Any) -> list[float] | None:
    """Numbers of a vector field: a list, or numpy's own format, compressed, in base 64."""
    if isinstance(value, list):
        return value if value and all(isinstance(number, int | float) for number in value) else None
    if isinstance(value, dict):
        value = value.get("$binary")
        value = value.get("base64") if isinstance(value, dict) else value
    if not isinstance(value, str):
        return None
    try:
        data = zlib.decompress(base64.b64decode(value, validate=True))
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (binascii.Error, zlib.error, ValueError, EOFError):
        return None
    numbers: list[float] | None = array.astype(np.float64).tolist() if array.ndim == 1 and len(array) else None
    return numbers


def _fiftyone(path: Path) -> MemoryTable:
    """`samples.json` of a FiftyOneDataset as a table: sample_id, path, part (from the tags), label, embedding."""
    samples = _samples(path)
    name = _fiftyone_field(samples)
    if name is None:
        raise DatasetError(f"{path}: no field of the first sample holds an embedding; compute and save one first")
    labels = "ground_truth" if any("ground_truth" in sample for sample in samples) else _label_field(samples)
    rows: dict[str, list[Any]] = {"sample_id": [], "path": [], "part": [], "label": [], "embedding": []}
    for sample in samples:
        identity = sample.get("_id") or sample.get("id") or sample.get("filepath")
        rows["sample_id"].append(str(identity.get("$oid") if isinstance(identity, dict) else identity))
        rows["path"].append(sample.get("filepath"))
        tags = [str(tag).lower() for tag in sample.get("tags") or []]
        rows["part"].append(next((tag for tag in tags if tag in PART_OF), ""))
        label = sample.get(labels) if labels is not None else None
        rows["label"].append(label.get("label") if isinstance(label, dict) else None)
        rows["embedding"].append(_vector(sample.get(name)))
    if not any(rows["part"]):
        del rows["part"]
    types = {"embedding": pa.list_(pa.float64())}
    columns = {key: pa.array(values, types.get(key, pa.string())) for key, values in rows.items()}
    return MemoryTable(str(path), pa.table(columns))


def _label_field(samples: Sequence[dict[str, Any]]) -> str | None:
    """The first field that holds a classification."""
    for sample in samples[:1]:
        for name, value in sample.items():
            if isinstance(value, dict) and value.get("_cls") == "Classification":
                return name
    return None
