"""Labels that psp-ray itself has written: `labels.parquet` of a run, and accounts of a ledger as Parquet or CSV."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from psp_ray.core.errors import DatasetError
from psp_ray.data.columns import ID_COLUMNS, PATH_COLUMNS

ACCOUNT = {"sample_id", "class", "content_hash"}
"""Columns of an account; its `label` is the number of the class."""


def known_table(given: str) -> list[tuple[int, str, str]] | None:
    """(row from 1, name, label) of a Parquet file or an account; None for another CSV, which is read as it stands.

    Raises:
        DatasetError: unreadable, no column for the name or the label, or an account whose images have no name.
    """
    path = Path(given).expanduser()
    if path.suffix.lower() != ".parquet":
        table = _account_csv(path)
        return None if table is None else _rows(given, table, "sample_id", "class")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"--initial-labels {given}: can't be read ({str(error).splitlines()[0]})") from None
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


def _account_csv(path: Path) -> pa.Table | None:
    """A ledger's account in CSV; None where it is another file, or none."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = {cell.strip().strip('"') for cell in file.readline().split(",")}
        if not header >= ACCOUNT:
            return None
        kinds = {name: pa.string() for name in header}
        return pacsv.read_csv(path, convert_options=pacsv.ConvertOptions(column_types=kinds))
    except (OSError, UnicodeDecodeError, pa.ArrowException):
        return None


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
