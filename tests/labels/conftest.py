"""Ledgers for the tests: a SQLite file always, a PostgreSQL server of our own where its programs are installed."""

import glob
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

CLASSES = ("cat", "dog", "owl")


def _program(name):
    found = shutil.which(name) or next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))), None)
    return os.path.realpath(found) if found else None


@pytest.fixture(scope="session")
def postgres_server():
    """URL of a throwaway server's `postgres` database, or of the one that PSP_RAY_TEST_POSTGRES names."""
    pytest.importorskip("psycopg", reason="the PostgreSQL driver psycopg is not installed")
    given = os.environ.get("PSP_RAY_TEST_POSTGRES")
    if given:
        yield given
        return
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    if not initdb or not pg_ctl:
        pytest.skip("no PostgreSQL server: install it, or set PSP_RAY_TEST_POSTGRES to a URL")
    # The server refuses to run as root; Debian's package makes the account `postgres`.
    account = {"user": "postgres"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="psp-ray-pg-"))
    try:
        if account:
            shutil.chown(folder, "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        data, log = folder / "data", folder / "log"
        quiet = {"check": True, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **account}
        try:
            subprocess.run([initdb, "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"], **quiet)
            options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=100 -c fsync=off"
            subprocess.run([pg_ctl, "-D", data, "-l", log, "-o", options, "-w", "start"], **quiet)
        except (OSError, subprocess.CalledProcessError, KeyError, PermissionError) as error:
            pytest.skip(f"a PostgreSQL server could not be started here ({error})")
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        subprocess.run([pg_ctl, "-D", data, "-m", "immediate", "-w", "stop"], **quiet)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request, tmp_path):
    """A fresh, empty ledger on each kind of database."""
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.db")
        return
    import sqlalchemy as sa

    server = sa.create_engine(request.getfixturevalue("postgres_server"), isolation_level="AUTOCOMMIT")
    name = f"ledger_{uuid.uuid4().hex}"
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    url = server.url.update_query_dict({"options": f"-csearch_path={name}"})
    yield url.render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    server.dispose()
