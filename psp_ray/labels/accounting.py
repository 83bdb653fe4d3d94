"""The ledger's books: who paid for what and when, labels out and in as tables, whole copies, caps of all together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.core.answers import answer_name
from psp_ray.core.errors import OracleError
from psp_ray.core.files import write_bytes, write_parquet
from psp_ray.labels import limits
from psp_ray.labels.annotators.base import Item
from psp_ray.labels.annotators.simulated import CrowdAnnotator, CrowdSettings, Vote
from psp_ray.labels.corrections import correct_labels, correction_history
from psp_ray.labels.imports import import_labels
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.purchase import insert_of, now_of
from psp_ray.labels.schema import (
    SCHEMA_VERSION,
    label_space_of,
    label_spaces,
    labels,
    metadata,
    open_engine,
    requests,
    resolve_ledger_url,
    schema_version,
    votes,
)

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
    ]
)
"""One row a purchase: which image, what it is, who paid how much in which round, and when; `classes` is a JSON list."""
_CHUNK = 1000


def account(ledger: Ledger, experiment: str | None = None) -> pa.Table:
    """All purchases by time (`ACCOUNT_SCHEMA`), of one experiment where it is named."""
    columns = (labels, requests.c.round, label_spaces.c.class_names)
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
        },
        schema=ACCOUNT_SCHEMA,
    )


def check_export(path: Path) -> None:
    """Raises OracleError for a name that isn't .parquet or .csv, or a folder that isn't there."""
    if path.suffix not in (".parquet", ".csv"):
        raise OracleError(f"{path}: give a name that ends in .parquet or .csv")
    if not path.parent.is_dir():
        raise OracleError(f"{path}: folder {path.parent} does not exist; make it first")


def write_account(table: pa.Table, path: Path) -> None:
    """Write an account to a .parquet or .csv file.

    Raises:
        OracleError: another suffix, or the file can't be written.
    """
    check_export(path)
    try:
        if path.suffix == ".parquet":
            write_parquet(path, table)
            return
        sink = pa.BufferOutputStream()
        pacsv.write_csv(table, sink)
        write_bytes(path, sink.getvalue().to_pybytes())
    except OSError as error:
        raise OracleError(f"{path}: can't be written ({error.strerror or error}); choose another place") from None


def read_account(path: Path) -> pa.Table:
    """An account from a .parquet or .csv file, edited or not. Raises OracleError where it can't be read."""
    try:
        if path.suffix == ".csv":
            kinds = {field.name: field.type for field in ACCOUNT_SCHEMA}
            return pacsv.read_csv(path, convert_options=pacsv.ConvertOptions(column_types=kinds))
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise OracleError(f"{path}: can't be read ({str(error).splitlines()[0]})") from None


def backup(ledger: Ledger, path: Path) -> int:
    """Copy the whole ledger, at one moment, into a new SQLite file; returns the number of rows.

    The file is itself a ledger: give it as --ledger to go on with it, on another machine or instead of a lost database.

    Raises:
        OracleError: the file exists or can't be written.
    """
    if path.exists():
        raise OracleError(f"backup {path}: exists already; choose another name")
    copy = open_engine(resolve_ledger_url(path))
    total = 0
    try:
        with copy.begin() as target, ledger.snapshot() as source:
            target.execute(schema_version.delete())
            for table in metadata.sorted_tables:
                result = source.execute(sa.select(table))
                while batch := result.mappings().fetchmany(_CHUNK):
                    target.execute(table.insert(), [dict(row) for row in batch])
                    total += len(batch) if table is not schema_version else 0
            newest = target.execute(sa.select(sa.func.max(schema_version.c.version))).scalar()
            if newest is None or newest < SCHEMA_VERSION:
                raise OracleError(f"backup {path}: the ledger was changed while it was copied; try again")
    except BaseException:
        copy.dispose()
        path.unlink(missing_ok=True)
        raise
    copy.dispose()
    return total


# -- votes and caps ----------------------------------------------------------------------------------------------------


def record_votes(ledger: Ledger, label_space: str, annotator: str, paid_by: str, new: Sequence[Vote]) -> None:
    """Make the answers of several people durable; a person's first answer about an image stays."""

    def write(connection: Connection) -> None:
        now = now_of(connection)
        rows = [
            {
                "label_space": label_space,
                "annotator": annotator,
                "content_hash": vote.content_hash,
                "voter": vote.voter,
                "label": vote.label,
                "cost": vote.cost,
                "paid_by": paid_by,
                "voted_at": now,
            }
            for vote in sorted(new, key=lambda vote: (vote.content_hash, vote.voter))
        ]
        connection.execute(insert_of(connection, votes).on_conflict_do_nothing(), rows)

    if new:
        ledger.transact(write)


def load_votes(ledger: Ledger, label_space: str, annotator: str) -> list[Vote]:
    """All answers given so far to `annotator`'s questions over a label space."""
    statement = (
        sa.select(votes.c.content_hash, votes.c.voter, votes.c.label, votes.c.cost)
        .where(votes.c.label_space == label_space, votes.c.annotator == annotator)
        .order_by(votes.c.content_hash, votes.c.voter)
    )
    return ledger.transact(lambda connection: [Vote(*row) for row in connection.execute(statement)])


class RecordedCrowd:
    """Simulated annotators whose votes are entered in the ledger, under the experiment that pays for them.

    Votes of earlier requests, of this process or another one, count in what later votes are made into, so that a
    resumed run gets the labels of one that wasn't interrupted.
    """

    def __init__(
        self, ledger: Ledger, labels: Mapping[str, int], crowd: CrowdSettings, classes: Sequence[str], experiment: str
    ) -> None:
        self._ledger, self._experiment = ledger, experiment
        self._space = label_space_of(classes)
        earlier = load_votes(ledger, self._space, crowd.digest)
        self._crowd = CrowdAnnotator(labels, crowd, len(classes), earlier)
        self.name, self.cost, self.batch_size = self._crowd.name, self._crowd.cost, self._crowd.batch_size

    def annotate(self, items: Sequence[Item]) -> list[int | None]:
        """As `CrowdAnnotator.annotate`; new votes are durable before they count."""

        def record(new: Sequence[Vote]) -> None:
            record_votes(self._ledger, self._space, self.name, self._experiment, new)

        return self._crowd.annotate(items, record)


def voters(ledger: Ledger) -> list[dict[str, Any]]:
    """Answers and pay of each person, as plain values."""
    statement = (
        sa.select(votes.c.annotator, votes.c.voter, sa.func.count(), sa.func.sum(votes.c.cost))
        .group_by(votes.c.annotator, votes.c.voter)
        .order_by(votes.c.annotator, votes.c.voter)
    )
    rows = ledger.transact(lambda connection: connection.execute(statement).all())
    return [{"annotator": a, "voter": v, "answers": int(n), "cost": float(c)} for a, v, n, c in rows]


def set_limits(ledger: Ledger, label_cap: int | None, cost_cap: float | None) -> None:
    """What all experiments together may buy; None lifts a cap."""
    ledger.transact(lambda connection: limits.set_limits(connection, label_cap, cost_cap))


def change_limits(ledger: Ledger, label_cap: float | None, cost_cap: float | None) -> None:
    """Set the caps that are given: None leaves one as it is, infinity lifts it."""
    ledger.transact(lambda connection: limits.change_limits(connection, label_cap, cost_cap))


def stale_claims(ledger: Ledger) -> list[dict[str, Any]]:
    """Claims whose lease is over, for each experiment: `labels` claimed and `since` when (seconds since the epoch)."""
    return ledger.transact(limits.stale_claims)


def drop_claims(ledger: Ledger, experiment: str | None = None) -> int:
    """Drop claims whose lease is over, of one experiment where it is named; returns how many.

    They count against the ledger's caps until then, because their client may only be slow: one that comes back with
    its labels after all overruns the cap by them.
    """
    return ledger.transact(lambda connection: limits.drop_claims(connection, experiment))


def get_limits(ledger: Ledger) -> tuple[int | None, float | None]:
    return ledger.transact(limits.get_limits)


class Books:
    """The books of one ledger, by the names that a running oracle gives them."""

    def __init__(self, ledger: Ledger | str) -> None:
        self._ledger = ledger if isinstance(ledger, Ledger) else Ledger(ledger)

    def __enter__(self) -> Books:
        return self

    def __exit__(self, *unused: object) -> None:
        self._ledger.close()

    def status(self) -> dict[str, Any]:
        """Counts of the ledger and each experiment, caps, stale claims, and what each of several people earned."""
        label_cap, cost_cap = get_limits(self._ledger)
        caps = {"label_cap": label_cap, "cost_cap": cost_cap}
        more = {"stale_claims": stale_claims(self._ledger), "voters": voters(self._ledger)}
        return self._ledger.status() | caps | more

    def account(self, experiment: str | None = None) -> pa.Table:
        return account(self._ledger, experiment)

    def take_in(self, table: pa.Table, origin: str) -> tuple[int, int, int]:
        return import_labels(self._ledger, table, origin)

    def drop_claims(self, experiment: str | None = None) -> int:
        return drop_claims(self._ledger, experiment)

    def correct(self, table: pa.Table, origin: str, by: str) -> tuple[int, int]:
        return correct_labels(self._ledger, table, origin, by)

    def history(self) -> pa.Table:
        return correction_history(self._ledger)

    def backup(self) -> bytes:
        """The whole ledger as a SQLite file."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "ledger.sqlite"
            backup(self._ledger, path)
            return path.read_bytes()
