"""Whole copies of a ledger."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from psp_ray.core.errors import OracleError
from psp_ray.labels.answer_book import book, tables_in
from psp_ray.labels.database import open_engine, resolve_ledger_url
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.schema import SCHEMA_VERSION, metadata, schema_version

_CHUNK = 1000


def backup(ledger: Ledger, path: Path) -> int:
    """Copy the whole ledger, at one moment, into a new SQLite file; returns the number of rows.

    People's answer books are in it; what runs wait for is not, they post it again. The file is itself a ledger: give it
    as --ledger to go on with it, on another machine or instead of a lost database.

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
            people = tables_in(source)
            book.create_all(target, tables=people)
            for table in (*metadata.sorted_tables, *people):
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


def backup_bytes(ledger: Ledger) -> bytes:
    """The whole ledger as a SQLite file's content."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        backup(ledger, path)
        return path.read_bytes()
