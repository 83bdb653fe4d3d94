"""What users bring beside the pool: a test set, labels they have already, images to leave out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from psp_ray.core import noise
from psp_ray.core.answers import UnknownLabel
from psp_ray.core.errors import DatasetError
from psp_ray.core.names import ABSENT, Names
from psp_ray.core.paths import is_folder, local_path, local_text, why_not
from psp_ray.core.records import Int32Array, Int64Array
from psp_ray.core.tables import TableError, read_table, read_text
from psp_ray.core.words import is_utf8, same_text
from psp_ray.data.columns import ID_COLUMNS, PATH_COLUMNS
from psp_ray.data.dataset import MANIFEST_SCHEMA, TEST_PREFIX, Dataset, make_dataset
from psp_ray.data.known import known_table
from psp_ray.data.labels import LabelReader
from psp_ray.data.listing import Listing, image_files
from psp_ray.data.manifest import Rows, is_manifest, read_manifest, require_local_files


def with_test(dataset: Dataset, given: str) -> Dataset:
    """`dataset` with the images of `--test` as its test part: a folder of class folders, or a manifest with labels.

    Raises:
        DatasetError: missing, empty, an image without a label, or one of a class that the data set doesn't have.
    """
    rows = _test_manifest(given) if is_manifest(given) else _test_folder(given)
    if not rows.ids:
        raise DatasetError(f"--test {given}: no image; give a folder of class folders, or a manifest with labels")
    require_local_files(rows)
    labels = []
    read = LabelReader(dataset.classes, dataset.former)
    for row, text in enumerate(rows.labels):
        try:
            label = read(text)
        except UnknownLabel as error:
            raise DatasetError(f"--test {rows.where(row)}: {error}") from None
        if label is None or label < 0:
            raise DatasetError(f"--test {rows.where(row)}: no label; every test image needs one")
        labels.append(label)
    ids = [TEST_PREFIX + name for name in rows.ids]
    test = make_dataset(
        f"--test {given}",
        dataset.classes,
        ids,
        ["test"] * len(ids),
        labels,
        paths=rows.paths,
        images=rows.images,
        with_pool=False,
    )
    kept = dataset.manifest.filter(pc.not_equal(dataset.manifest["split"], "test"))
    if bool(pc.any(pc.is_in(test.manifest["sample_id"], value_set=kept["sample_id"])).as_py()):
        raise DatasetError(f"--test {given}: an image of the pool is called {ids[0]!r} too; rename the folder 'test'")
    manifest = pa.concat_tables([kept, test.manifest]).sort_by("sample_id")
    assert test.ground_truth is not None
    truth = test.ground_truth
    if dataset.ground_truth is not None:
        truth = pa.concat_tables([dataset.ground_truth, truth])
    notes = (*dataset.notes, *rows.notes)
    return replace(dataset, manifest=manifest.cast(MANIFEST_SCHEMA), ground_truth=truth, notes=notes)


def _test_manifest(given: str) -> Rows:
    rows = read_manifest(given)
    chosen = [row for row, split in enumerate(rows.splits) if split.lower().startswith("test")]
    return rows.take(chosen) if chosen else rows


def _test_folder(given: str) -> Rows:
    if not is_folder(given):
        raise DatasetError(f"--test {given}: no such folder; give a folder of class folders, or a CSV or Parquet file")
    folder = local_path(given)
    found: Listing = image_files(folder)
    files = sorted(found.files)
    loose = next((parts for parts in files if len(parts) < 2), None)
    if loose is not None:
        raise DatasetError(f"--test {given}: {loose[0]} lies in no class folder; every test image needs a label")
    rows = Rows(str(folder), notes=[f"--test: {note}" for note in found.notes()])
    for parts in files:
        rows.ids.append("/".join(parts))
        rows.paths.append(os.path.join(os.path.abspath(folder), *parts))
        rows.images.append(None)
        rows.labels.append(parts[0])
        rows.splits.append("test")
        rows.lines.append(len(rows.ids))
    return rows


def excluding(dataset: Dataset, given: str) -> Dataset:
    """`dataset` without the images listed in `--exclude`: a text file with a name a line, or a CSV.

    A name is a sample_id, a path (as in the manifest or absolute), or a line of `broken_images.csv` and the like.

    Raises:
        DatasetError: unreadable, a name of no image, or nothing left of the pool.
    """
    listed = _names_and_labels(given, "--exclude")
    places = _places(dataset, [name for _, name, _ in listed])
    gone = []
    for number, name, _ in listed:
        found = _sample(places, name)
        if found is None:
            raise DatasetError(f"--exclude {given}:{number}: {name!r} is no image of {dataset.name}; correct the line")
        gone.append(found)
    left = dataset.without(gone)
    if not left.count("pool"):
        raise DatasetError(f"--exclude {given}: leaves no image in the pool; list fewer")
    return left


def initial_labels(dataset: Dataset, given: str) -> tuple[Int64Array, Int32Array]:
    """Positions (k,) in the pool and classes (k,) int32 of the labels in a CSV or Parquet file with columns sample_id
    (or path) and label.

    Empty labels are passed over, so that a half-filled query.csv will do; and skips and ignores, so that a run's own
    `labels.parquet` will. An account of the ledger (`psp-ray oracle export`) has its class in the column `class`.

    Raises:
        DatasetError: unreadable, an image that is not in the pool, labeled twice differently, or an unknown class.
    """
    listed = known_labels(given)
    places = _places(dataset, [name for _, name, _ in listed])
    meant = list(dict.fromkeys(name for _, listed_name, _ in listed if (name := _sample(places, listed_name))))
    position = dict(zip(meant, Names.of(dataset.pool["sample_id"]).find(meant).tolist(), strict=True))
    found: dict[int, int] = {}
    read = LabelReader(dataset.classes, dataset.former)
    for number, name, text in listed:
        where = f"--initial-labels {given}:{number}"
        try:
            label = read(text)
        except UnknownLabel as error:
            raise DatasetError(f"{where}: {error}") from None
        sample = _sample(places, name)
        if sample is None or position[sample] == ABSENT:
            raise DatasetError(f"{where}: {name!r} is no image of the pool; correct or remove the line")
        if label is None or label < 0:
            continue
        if found.setdefault(position[sample], label) != label:
            raise DatasetError(f"{where}: {name!r} has two different labels; keep one line")
    order = sorted(found)
    return np.array(order, np.int64), np.array([found[at] for at in order], np.int32)


def known_labels(given: str) -> list[tuple[int, str, str]]:
    """(row, name, label) of what `--initial-labels` names."""
    found = known_table(given)
    return _names_and_labels(given, "--initial-labels") if found is None else found


def readable(
    initial: tuple[Int64Array, Int32Array], dataset: Dataset, left: Dataset
) -> tuple[tuple[Int64Array, Int32Array], list[str]]:
    """Initial labels of `dataset` as those of `left`, which lacks unreadable images; and the names of those without."""
    positions, labels = initial
    names = Names.of(dataset.pool["sample_id"]).at(positions)
    place = Names.of(left.pool["sample_id"]).find(names)
    there = place != ABSENT
    gone = [name for name, still in zip(names, there.tolist(), strict=True) if not still]
    return (place[there], labels[there]), gone


def limited(dataset: Dataset, limit: int, seed: int, keep: Int64Array) -> Dataset:
    """`dataset` with at most `limit` pool images, chosen by chance (by seed and name); positions `keep` stay."""
    names = Names.of(dataset.pool["sample_id"])
    if len(names) <= limit:
        return dataset
    draw = noise.uniform(seed, "pool-limit", noise.sample_keys(names))
    draw[keep] = -1.0
    order = np.lexsort((np.arange(len(names)), draw))
    return dataset.without(names.take(order[max(limit, len(keep)) :]))


def _places(dataset: Dataset, wanted: Sequence[str]) -> dict[str, str]:
    """Every way to name an image that any of `wanted` may be: its sample_id and its path, as they are and composed
    (NFC)."""
    texts = {text for given in wanted for text in _spellings(given)}
    sought = pa.array(sorted(text for text in texts if is_utf8(text)), pa.string())
    named = dataset.manifest.select(["sample_id", "path"])
    parts = [part.filter(_meant(part, sought)) for part in named.to_batches(max_chunksize=1 << 20)]
    found = pa.Table.from_batches(parts, named.schema)
    ids, paths = found["sample_id"].to_pylist(), found["path"].to_pylist()
    exact = {path: name for name, path in zip(ids, paths, strict=True) if path} | {name: name for name in ids}
    alike: dict[str, str] = {}
    for place, name in exact.items():
        # Where two names look alike, only the exact spelling tells which is meant.
        alike[same_text(place)] = name if alike.get(same_text(place), name) == name else ""
    return {place: name for place, name in alike.items() if name} | exact


def _meant(part: pa.RecordBatch, sought: pa.Array) -> pa.Array:
    """Which rows have a name or path that is `sought`, as it is or composed."""
    either = pa.array(np.zeros(part.num_rows, bool))
    for column in part.columns:
        if column.null_count == len(column):
            continue
        composed = pc.utf8_trim_whitespace(pc.utf8_normalize(column, "NFC"))
        for texts in (column, composed):
            either = pc.or_(either, pc.is_in(texts, value_set=sought))
    return either


def _spellings(given: str) -> tuple[str, ...]:
    path = os.path.abspath(local_text(given))
    return given, same_text(given), path, same_text(path)


def _sample(places: dict[str, str], given: str) -> str | None:
    return next((places[name] for name in _spellings(given) if name in places), None)


def _names_and_labels(given: str, option: str) -> list[tuple[int, str, str]]:
    """(line, name, label) of a CSV with a header, or (line, name, "") of a plain list of names."""
    labels = option == "--initial-labels"
    try:
        text = read_text(local_path(given).read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{option} {given}: can't be read ({why_not(error)}); give a text or CSV file") from None
    try:
        table = read_table(text)
        header = table.header
    except TableError as error:
        header = []
        first = (text.splitlines() or [""])[0].lower()
        if labels or any(name in first for name in (*ID_COLUMNS, *PATH_COLUMNS)):
            raise DatasetError(f"{option} {given}:{error.line}: {error}") from None
    column = next((name for name in (*ID_COLUMNS, *PATH_COLUMNS) if name in header), None)
    if column is None:
        if labels:
            raise DatasetError(f"{option} {given}: no columns sample_id (or path) and label; add a header line")
        return [(number, line.strip(), "") for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if labels and "label" not in header:
        raise DatasetError(f"{option} {given}: no column 'label'; add one")
    found = []
    for line, cells in table.rows():
        if cells[column].strip():
            found.append((line, cells[column].strip(), cells.get("label", "").strip()))
        elif labels and cells["label"].strip():
            raise DatasetError(f"{option} {given}:{line}: a label without a {column}; fill it in or clear the line")
    return found
