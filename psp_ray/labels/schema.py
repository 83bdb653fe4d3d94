"""Tables of the label ledger, the version they have, and how a database is opened.

One row of `labels` is one purchase; one row of `uses` is what one experiment was told about one sample. Once set, a
label changes by a correction only, and `corrections` keeps what it was before. A label is a class index, or one of the
codes of `psp_ray.core.answers`. A later version adds tables beside these by a step in `MIGRATIONS`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from psp_ray.core.errors import OracleError

SCHEMA_VERSION = 3
"""Version of the tables below. Raise it together with a step in `MIGRATIONS`."""

BUSY_SECONDS = 60.0
"""How long a client waits for another one's transaction on a SQLite ledger."""

_ADVISORY_LOCK = 0x7073705F726179
"""PostgreSQL advisory lock held while the tables are made, so that clients starting together don't collide."""

metadata = sa.MetaData()

schema_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, primary_key=True))

label_spaces = sa.Table(
    "label_spaces",
    metadata,
    sa.Column("label_space", sa.String(32), primary_key=True),
    sa.Column("class_names", sa.Text, nullable=False),
)

experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("experiment", sa.Text, primary_key=True),
    sa.Column("label_space", sa.ForeignKey("label_spaces.label_space"), nullable=False),
    sa.Column("annotator", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("experiment", sa.ForeignKey("experiments.experiment"), nullable=False, index=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(32), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("completed_at", sa.Double),
)

labels = sa.Table(
    "labels",
    metadata,
    sa.Column("label_space", sa.ForeignKey("label_spaces.label_space"), primary_key=True),
    sa.Column("annotator", sa.Text, primary_key=True),
    sa.Column("content_hash", sa.Text, primary_key=True),
    # NULL while claimed and not yet bought; the claim counts until `lease_until` (seconds since the epoch).
    sa.Column("label", sa.Integer),
    sa.Column("lease_until", sa.Double),
    sa.Column("cost", sa.Double, nullable=False),
    sa.Column("paid_by", sa.Text, nullable=False, index=True),
    sa.Column("paid_at", sa.Double),
    sa.Column("request_id", sa.Text, nullable=False, index=True),
)

uses = sa.Table(
    "uses",
    metadata,
    sa.Column("experiment", sa.ForeignKey("experiments.experiment"), primary_key=True),
    sa.Column("sample_id", sa.Text, primary_key=True),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False, index=True),
    sa.Column("ordinal", sa.Integer, nullable=False),
    # NULL while reserved (it counts against the caps, not in labels_used); then what the experiment was told.
    sa.Column("label", sa.Integer),
    sa.Column("cost", sa.Double, nullable=False),
)

# Every change of a bought label, numbered from 1 for each image: what it was, what it became, who changed it and when.
corrections = sa.Table(
    "corrections",
    metadata,
    sa.Column("label_space", sa.ForeignKey("label_spaces.label_space"), primary_key=True),
    sa.Column("annotator", sa.Text, primary_key=True),
    sa.Column("content_hash", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("previous", sa.Integer, nullable=False),
    sa.Column("label", sa.Integer, nullable=False),
    sa.Column("corrected_by", sa.Text, nullable=False, index=True),
    sa.Column("corrected_at", sa.Double, nullable=False),
)

# At most one row: what all experiments together may buy. NULL: no limit.
limits = sa.Table(
    "limits",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("label_cap", sa.Integer),
    sa.Column("cost_cap", sa.Double),
)

# Where several people label an image: what each of them said. `labels` holds what was made of it, by the annotator
# that asked them.
votes = sa.Table(
    "votes",
    metadata,
    sa.Column("label_space", sa.ForeignKey("label_spaces.label_space"), primary_key=True),
    sa.Column("annotator", sa.Text, primary_key=True),
    sa.Column("content_hash", sa.Text, primary_key=True),
    sa.Column("voter", sa.Text, primary_key=True),
    sa.Column("label", sa.Integer, nullable=False),
    sa.Column("cost", sa.Double, nullable=False),
    sa.Column("paid_by", sa.Text, nullable=False),
    sa.Column("voted_at", sa.Double, nullable=False),
)

MIGRATIONS: dict[int, Callable[[Connection], None]] = {
    2: corrections.create,
    3: lambda connection: metadata.create_all(connection, tables=[limits, votes]),
}
"""`MIGRATIONS[v]` turns a ledger of version v - 1 into one of version v, inside the opening transaction."""


def label_space_of(class_names: Sequence[str]) -> str:
    """Name of a label space: 32 hexadecimal digits, BLAKE2b of the ordered class names."""
    return hashlib.blake2b(json.dumps(list(class_names)).encode(), digest_size=16).hexdigest()


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
    return url.render_as_string(hide_password=True)


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
        raise OracleError(f"ledger {shown(url)}: can't be opened ({one_line(error)})") from error
    return engine


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

    @event.listens_for(engine, "connect")
    def _configure(connection, record):  # type: ignore[no-untyped-def]
        connection.isolation_level = None  # the driver must not begin transactions of its own
        # A commit must survive a power cut before the answer leaves. With WAL, EXTRA equals FULL (the log is synced
        # at every commit); where a file system can't do WAL, EXTRA also syncs the folder of the rollback journal.
        _patiently(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchall())
        connection.execute("PRAGMA synchronous=EXTRA")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # The write lock is taken at once: two clients that both read "not bought" can't both go on to pay.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


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
