"""The ledger's database: finding and opening it, and what differs between SQLite and PostgreSQL."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from psp_ray.core.errors import LedgerError, OracleError
from psp_ray.core.words import MASK, masked
from psp_ray.labels.schema import MIGRATIONS, SCHEMA_VERSION, labels, metadata, schema_version

BUSY_SECONDS = 60.0
"""How long a client waits for another one's transaction on a SQLite ledger."""

_ADVISORY_LOCK = 0x7073705F726179
"""PostgreSQL advisory lock held while the tables are made, so that clients starting together don't collide."""

CHUNK = 500
"""Names in one statement, far below the databases' limits on parameters."""


def resolve_ledger_url(ledger: str | os.PathLike[str]) -> URL:
    """URL of a ledger given as a database URL or as a plain path (SQLite). Opens nothing.

    Raises OracleError where the URL can't be read, names a database other than SQLite or PostgreSQL, or where the
    folder of a SQLite file does not exist (a mistyped path would otherwise be a new ledger that pays again).
    """
    text = os.fspath(ledger)
    if "://" not in text:
        url = URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    else:
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):
            # The text is not repeated: it may hold a password.
            raise OracleError(
                "ledger: not a readable database URL; give a file path, sqlite:///FILE or "
                "postgresql://USER@HOST/DATABASE"
            ) from None
    if MASK in (url.password, url.query.get("password")):
        raise OracleError(
            f"ledger {shown(url)}: its password was left out where this was written down; give the address again, or a "
            "password file of the database's own (~/.pgpass)"
        )
    backend = url.drivername.partition("+")[0]
    if backend in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg") if "+" not in url.drivername else url
    if backend != "sqlite":
        raise OracleError(f"ledger: {backend!r} is not supported; use SQLite (a file path) or postgresql://")
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise OracleError("ledger: a SQLite ledger must be a file, or bought labels are lost; give its path")
    path = Path(url.database)
    if path.is_dir():
        raise OracleError(f"ledger {path}: is a folder; give the path of a file")
    if not path.parent.is_dir():
        raise OracleError(f"ledger {path}: folder {path.parent} does not exist; make it first")
    return url


def shown(url: URL) -> str:
    """The ledger's name for messages: a path for SQLite, a URL without its password otherwise."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return masked(url.render_as_string(hide_password=True))


def open_engine(url: URL) -> Engine:
    """Open the database, make or upgrade its tables, and check their version.

    Raises OracleError in one line: driver missing, database not reachable or not writable, newer ledger version.
    """
    try:
        engine = _create_engine(url)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise OracleError(
            f"ledger {shown(url)}: its database driver is not installed ({error}); run: pip install 'psycopg[binary]'"
        ) from None
    try:
        _prepare(engine, url)
    except OracleError:
        engine.dispose()
        raise
    except (SQLAlchemyError, OSError) as error:
        engine.dispose()
        if any(word in one_line(error) for word in ("malformed", "not a database")):
            raise _damaged(url, one_line(error)) from error
        raise OracleError(f"ledger {shown(url)}: can't be opened ({one_line(error)})") from error
    return engine


def _damaged(url: URL, reason: str) -> OracleError:
    return OracleError(
        f"ledger {shown(url)}: is damaged ({reason}); put a backup (`psp-ray oracle backup`) in its place, or move it "
        "away: a run that is resumed puts back all labels that its checkpoints know"
    )


def one_line(error: BaseException) -> str:
    """First line of the database's own message."""
    origin = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = str(origin).strip()
    return text.splitlines()[0] if text else type(origin).__name__


def _create_engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        # READ COMMITTED: after waiting for another client's claim, the next statement must see it.
        return sa.create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED")
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    opened: list[tuple[int, int]] = []

    @event.listens_for(engine, "connect")
    def _configure(connection, record):  # type: ignore[no-untyped-def]
        connection.isolation_level = None  # the driver must not begin transactions of its own
        # A commit must survive a power cut before the answer leaves. With WAL, EXTRA equals FULL (the log is synced
        # at every commit); where a file system can't do WAL, EXTRA also syncs the folder of the rollback journal.
        _patiently(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchall())
        connection.execute("PRAGMA synchronous=EXTRA")
        connection.execute("PRAGMA foreign_keys=ON")
        if not opened:
            opened.append(_identity(url))

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A file that was removed or replaced is still written to, and gone when the program ends.
        if _identity(url) != opened[0]:
            raise LedgerError(
                f"ledger {shown(url)}: was removed or replaced while it was in use, nothing is saved any more; put the "
                "file back if you have it, and start again: what checkpoints know is put back, too"
            )
        # The write lock is taken at once: two clients that both read "not bought" can't both go on to pay.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _identity(url: URL) -> tuple[int, int]:
    """Which file it is, whatever its name; (0, 0) for none."""
    try:
        found = os.stat(str(url.database))
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _patiently(action: Callable[[], object]) -> None:
    """Switching to WAL fails at once, without the busy timeout, while another client does the same."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            action()
            return
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _prepare(engine: Engine, url: URL) -> None:
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        else:
            found = str(connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar())
            if found != "ok":
                raise _damaged(url, found.splitlines()[0])
        inspector = sa.inspect(connection)
        if not inspector.has_table(schema_version.name):
            if inspector.has_table(labels.name):
                raise OracleError(f"ledger {shown(url)}: holds a table 'labels' that is not ours; choose another one")
            metadata.create_all(connection)
            connection.execute(schema_version.insert().values(version=SCHEMA_VERSION))
            return
        version = connection.execute(sa.select(sa.func.max(schema_version.c.version))).scalar()
        if version is None or version > SCHEMA_VERSION:
            raise OracleError(
                f"ledger {shown(url)}: has version {version}, this psp-ray knows {SCHEMA_VERSION}; upgrade psp-ray"
            )
        for step in range(version + 1, SCHEMA_VERSION + 1):
            MIGRATIONS[step](connection)
            connection.execute(schema_version.insert().values(version=step))


def make_tables(connection: Connection, tables: sa.MetaData) -> None:
    """Make those of the tables that aren't there; clients that start together don't collide."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    tables.create_all(connection)


def now_of(connection: Connection) -> float:
    """Seconds since the epoch by one clock for all clients: the database's, where it has its own machine."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(connection.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())


def insert_of(connection: Connection, table: sa.Table) -> Any:
    """The dialect's own insert, which knows on-conflict clauses."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def fill_of(connection: Connection, table: sa.Table) -> Any:
    """An insert of whole rows of `labels` or `uses` that completes one without a label, and leaves one that has its
    label as it is."""
    statement = insert_of(connection, table)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key},
        where=table.c.label.is_(None),
    )


def chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """`names` in pieces that fit into one statement."""
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]
