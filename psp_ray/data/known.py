"""Labels that psp-ray itself has written: `labels.parquet` of a run, and accounts of a ledger as Parquet or CSV."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from psp_ray.core.errors import DatasetError
from psp_ray.core.paths import local_path
from psp_ray.core.tables import read_table
from psp_ray.core.words import reason_of
from psp_ray.data.columns import ID_COLUMNS, PATH_COLUMNS, whole

ACCOUNT = {"sample_id", "class", "content_hash"}
"""Columns of an account; its `label` is the number of the class."""


def known_table(given: str) -> list[tuple[int, str, str]] | None:
    """(row from 1, name, label) of a Parquet file or an account; None for another CSV, which is read as it stands.

    Raises:
        DatasetError: unreadable, no column for the name or the label, or an account whose images have no name.
    """
    path = local_path(given)
    if path.suffix.lower() != ".parquet":
        return _account_csv(given, path)
    try:
        table = whole(pq.read_table(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"--initial-labels {given}: can't be read ({reason_of(error)})") from None
    if set(table.column_names) >= ACCOUNT:
        return _rows(given, table, "sample_id", "class")
    names = {name.lower(): name for name in table.column_names}
    column = next((names[name] for name in (*ID_COLUMNS, *PATH_COLUMNS) if name in names), None)
    if column is None or "label" not in names:
        raise DatasetError(
            f"--initial-labels {given}: has the columns {', '.join(table.column_names)}, but needs sample_id (or path) "
            "and label"
        )
    return _rows(given, table, column, names["label"])


def _account_csv(given: str, path: Path) -> list[tuple[int, str, str]] | None:
    """The rows of a ledger's account in CSV; None where it is another file, or none."""
    try:
        found = read_table(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not set(found.header) >= ACCOUNT:
        return None
    cells = [row for _, row in found.rows()]
    names = ("sample_id", "class")
    return _rows(given, pa.table({name: [row[name] or None for row in cells] for name in names}), *names)


def _rows(given: str, table: pa.Table, name: str, label: str) -> list[tuple[int, str, str]]:
    found = []
    for number, (sample, text) in enumerate(zip(table[name].to_pylist(), table[label].to_pylist(), strict=True), 1):
        if text is None or not str(text).strip():
            continue
        if sample is None or not str(sample).strip():
            raise DatasetError(
                f"--initial-labels {given}: row {number} names no image; an account tells names only where the ledger "
                "was used here"
            )
        found.append((number, str(sample), str(text)))
    return found
