"""The ledger's accounts: who paid for what and when, as tables and files, and all that is asked of a ledger besides
labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import sqlalchemy as sa

from psp_ray.core.answers import answer_name
from psp_ray.core.errors import OracleError
from psp_ray.core.files import write_bytes, write_parquet
from psp_ray.core.tables import cell, plain_cell
from psp_ray.labels import claims, limits
from psp_ray.labels.backup import backup_bytes
from psp_ray.labels.check import check
from psp_ray.labels.imports import correct_labels, import_labels
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.questions import waiting_for_people
from psp_ray.labels.schema import corrections, label_spaces, labels, requests, uses
from psp_ray.labels.votes import vote_counts

ACCOUNT_SCHEMA = pa.schema(
    [
        ("content_hash", pa.string()),
        ("class", pa.string()),
        ("label", pa.int32()),
        ("annotator", pa.string()),
        ("cost", pa.float64()),
        ("paid_by", pa.string()),
        ("round", pa.int32()),
        ("paid_at", pa.timestamp("ms", tz="UTC")),
        ("request_id", pa.string()),
        ("label_space", pa.string()),
        ("classes", pa.string()),
        ("sample_id", pa.string()),
    ]
)
"""One row a purchase: which image, what it is, who paid how much in which round, and when; `classes` is a JSON list.
`sample_id` is the image's name to who paid, null where nobody here used the label (it was imported)."""
HISTORY_SCHEMA = pa.schema(
    [
        ("content_hash", pa.string()),
        ("number", pa.int32()),
        ("previous_class", pa.string()),
        ("class", pa.string()),
        ("annotator", pa.string()),
        ("corrected_by", pa.string()),
        ("corrected_at", pa.timestamp("ms", tz="UTC")),
        ("label_space", pa.string()),
        ("classes", pa.string()),
    ]
)
"""One row a change, numbered from 1 for each image: what it was, what it became, who said so, and when."""


def account(ledger: Ledger, experiment: str | None = None) -> pa.Table:
    """All purchases by time (`ACCOUNT_SCHEMA`), of one experiment where it is named."""
    name = (
        sa.select(sa.func.min(uses.c.sample_id))
        .where(uses.c.experiment == labels.c.paid_by, uses.c.content_hash == labels.c.content_hash)
        .scalar_subquery()
        .label("sample_id")
    )
    columns = (labels, requests.c.round, label_spaces.c.class_names, name)
    statement = (
        sa.select(*columns)
        .select_from(
            labels.join(label_spaces, label_spaces.c.label_space == labels.c.label_space).outerjoin(
                requests, requests.c.request_id == labels.c.request_id
            )
        )
        .where(labels.c.label.is_not(None))
        .order_by(labels.c.paid_at, labels.c.label_space, labels.c.annotator, labels.c.content_hash)
    )
    if experiment is not None:
        statement = statement.where(labels.c.paid_by == experiment)
    rows = ledger.transact(lambda connection: connection.execute(statement).mappings().all())
    names = {row["class_names"]: json.loads(row["class_names"]) for row in rows}
    return pa.table(
        {
            "content_hash": [row["content_hash"] for row in rows],
            "class": [answer_name(row["label"], names[row["class_names"]]) for row in rows],
            "label": [row["label"] for row in rows],
            "annotator": [row["annotator"] for row in rows],
            "cost": [row["cost"] for row in rows],
            "paid_by": [row["paid_by"] for row in rows],
            "round": [row["round"] for row in rows],
            "paid_at": pa.array(
                [None if row["paid_at"] is None else round(1000 * row["paid_at"]) for row in rows],
                pa.timestamp("ms", tz="UTC"),
            ),
            "request_id": [row["request_id"] for row in rows],
            "label_space": [row["label_space"] for row in rows],
            "classes": [row["class_names"] for row in rows],
            "sample_id": [row["sample_id"] for row in rows],
        },
        schema=ACCOUNT_SCHEMA,
    )


def correction_history(ledger: Ledger) -> pa.Table:
    """All corrections, oldest first (`HISTORY_SCHEMA`)."""
    statement = (
        sa.select(corrections, label_spaces.c.class_names)
        .join(label_spaces, label_spaces.c.label_space == corrections.c.label_space)
        .order_by(corrections.c.corrected_at, corrections.c.content_hash, corrections.c.number)
    )
    rows = ledger.transact(lambda connection: connection.execute(statement).mappings().all())
    names = {row["class_names"]: json.loads(row["class_names"]) for row in rows}
    columns: dict[str, Any] = {
        name: [row[name] for row in rows] for name in ("content_hash", "number", "annotator", "corrected_by")
    }
    columns["previous_class"] = [answer_name(row["previous"], names[row["class_names"]]) for row in rows]
    columns["class"] = [answer_name(row["label"], names[row["class_names"]]) for row in rows]
    columns["corrected_at"] = pa.array(
        [round(1000 * row["corrected_at"]) for row in rows], pa.timestamp("ms", tz="UTC")
    )
    columns["label_space"] = [row["label_space"] for row in rows]
    columns["classes"] = [row["class_names"] for row in rows]
    return pa.table({field.name: columns[field.name] for field in HISTORY_SCHEMA}, schema=HISTORY_SCHEMA)


def check_export(path: Path) -> None:
    """Raises OracleError for a name that isn't .parquet or .csv, or a folder that isn't there."""
    if path.suffix not in (".parquet", ".csv"):
        raise OracleError(f"{path}: give a name that ends in .parquet or .csv")
    if not path.parent.is_dir():
        raise OracleError(f"{path}: folder {path.parent} does not exist; make it first")


def write_account(table: pa.Table, path: Path) -> None:
    """Write an account to a .parquet or .csv file.

    Raises:
        OracleError: another suffix. OutputError: the file can't be written.
    """
    check_export(path)
    if path.suffix == ".parquet":
        write_parquet(path, table)
        return
    sink = pa.BufferOutputStream()
    pacsv.write_csv(_each_text(table, cell), sink)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_account(path: Path) -> pa.Table:
    """An account from a .parquet or .csv file, edited or not. Raises OracleError where it can't be read."""
    try:
        if path.suffix == ".csv":
            kinds = {field.name: field.type for field in ACCOUNT_SCHEMA}
            read = pacsv.read_csv(path, convert_options=pacsv.ConvertOptions(column_types=kinds))
            return _each_text(read, plain_cell)
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise OracleError(f"{path}: can't be read ({str(error).splitlines()[0]})") from None


def _each_text(table: pa.Table, change: Callable[[str], Any]) -> pa.Table:
    """`table` with `change` applied to all texts: no spreadsheet runs what stands in a CSV of ours."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = [None if text is None else change(text) for text in table[field.name].to_pylist()]
            table = table.set_column(place, field, pa.array(texts, pa.string()))
    return table


class Accounting(Protocol):
    """What can be asked of a ledger, whether it is at hand (`LedgerAccounting`) or a running oracle has it open."""

    def status(self) -> dict[str, Any]:
        """Counts of the ledger and each experiment, caps, stale claims, what each of several annotators earned, and
        runs that wait for people."""
        ...

    def account(self, experiment: str | None = None) -> pa.Table:
        """All purchases (`ACCOUNT_SCHEMA`), of one experiment where it is named."""
        ...

    def correction_history(self) -> pa.Table:
        """All corrections, oldest first (`HISTORY_SCHEMA`)."""
        ...

    def import_labels(self, table: pa.Table, origin: str) -> tuple[int, int, int]:
        """Take in an account: (new, known already, known otherwise)."""
        ...

    def correct_labels(self, table: pa.Table, origin: str, by: str) -> tuple[int, int]:
        """Make labels what the table says: (changed, right already)."""
        ...

    def drop_claims(self, experiment: str | None = None) -> int:
        """Drop claims whose lease is over, of one experiment where it is named; returns how many.

        They count against the ledger's caps until then, because their client may only be slow: one that comes back
        with its labels after all overruns the cap by them.
        """
        ...

    def change_limits(self, label_cap: float | None, cost_cap: float | None) -> None:
        """Set what all experiments together may buy: None leaves a cap as it is, infinity lifts it."""
        ...

    def backup(self) -> bytes:
        """The whole ledger as a SQLite file's content."""
        ...

    def check(self) -> list[str]:
        """What is wrong with the ledger, a line each."""
        ...


class LedgerAccounting:
    """The accounts of a ledger at hand. See `Accounting` for the methods."""

    def __init__(self, ledger: Ledger | str) -> None:
        self._ledger = ledger if isinstance(ledger, Ledger) else Ledger(ledger)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self._ledger.close()

    def status(self) -> dict[str, Any]:
        label_cap, cost_cap = self.limits()
        caps = {"label_cap": label_cap, "cost_cap": cost_cap}
        waiting = self._ledger.transact(waiting_for_people)
        more = {"stale_claims": self.stale_claims(), "votes": vote_counts(self._ledger), "waiting": waiting}
        return self._ledger.status() | caps | more

    def account(self, experiment: str | None = None) -> pa.Table:
        return account(self._ledger, experiment)

    def correction_history(self) -> pa.Table:
        return correction_history(self._ledger)

    def import_labels(self, table: pa.Table, origin: str) -> tuple[int, int, int]:
        return import_labels(self._ledger, table, origin)

    def correct_labels(self, table: pa.Table, origin: str, by: str) -> tuple[int, int]:
        return correct_labels(self._ledger, table, origin, by)

    def stale_claims(self) -> list[dict[str, Any]]:
        """Claims whose lease is over, by experiment: `labels` claimed, and `since` when (seconds since the epoch)."""
        return self._ledger.transact(claims.stale_claims)

    def drop_claims(self, experiment: str | None = None) -> int:
        return self._ledger.transact(lambda connection: claims.drop_claims(connection, experiment))

    def limits(self) -> tuple[int | None, float | None]:
        """(label_cap, cost_cap) of all experiments together."""
        return self._ledger.transact(limits.get_limits)

    def change_limits(self, label_cap: float | None, cost_cap: float | None) -> None:
        self._ledger.transact(lambda connection: limits.change_limits(connection, label_cap, cost_cap))

    def backup(self) -> bytes:
        return backup_bytes(self._ledger)

    def check(self) -> list[str]:
        return check(self._ledger)
