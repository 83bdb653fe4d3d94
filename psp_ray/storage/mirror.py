"""Storage that all nodes reach: a folder (local, NFS), S3 and its like, or whatever fsspec knows.

S3 and Google's storage go through pyarrow's own clients, with the usual variables for credentials (`AWS_ACCESS_KEY_ID`,
...) and `AWS_ENDPOINT_URL` for S3-compatible servers; other schemes need their fsspec package. Under the URI:

    runs/NAME/     a copy of the output folder, made after every round: what --resume restores on a new machine
    cache/...      features, so that nodes without a shared folder can fetch them
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from psp_ray.core.errors import OutputError
from psp_ray.core.files import LOCK, sync_folder
from psp_ray.run.checkpoint import MARKER

_DATABASE = ".sqlite"
_CHUNK = 4 * 2**20


class Storage:
    """A folder at a URI or path.

    Raises:
        OutputError: an unknown scheme, a missing package, or a place that can't be reached.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        try:
            self._fs, self._root = _open(self.uri)
        except (ImportError, ValueError, OSError, pa.ArrowException) as error:
            raise OutputError(f"--storage {uri}: can't be used ({_reason(error)})") from None

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["uri"])  # type: ignore[misc]

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole. Raises OutputError."""
        with _failing(self.uri, "written"):
            self._make_parent(name)
            with self._fs.open_output_stream(self._path(name)) as stream:
                stream.write(data)

    def read(self, name: str) -> bytes:
        """A file's content. Raises OutputError."""
        with _failing(self.uri, "read"), self._fs.open_input_stream(self._path(name)) as stream:
            data: bytes = stream.read()
            return data

    def list(self, prefix: str) -> dict[str, int]:
        """{name: bytes} of all files below `prefix`, names relative to it."""
        with _failing(self.uri, "read"):
            base = self._path(prefix)
            found = self._fs.get_file_info(fs.FileSelector(base, allow_not_found=True, recursive=True))
        return {
            info.path[len(base) :].lstrip("/"): int(info.size or 0) for info in found if info.type == fs.FileType.File
        }

    def delete(self, name: str) -> None:
        with _failing(self.uri, "written"):
            self._fs.delete_file(self._path(name))

    def push(self, local: Path, name: str) -> None:
        """Copy a local file there."""
        with _failing(self.uri, "written"):
            self._make_parent(name)
            with open(local, "rb") as source, self._fs.open_output_stream(self._path(name)) as target:
                shutil.copyfileobj(source, target, _CHUNK)

    def pull(self, name: str, local: Path) -> None:
        """Copy a file here; it appears whole or not at all."""
        local.parent.mkdir(parents=True, exist_ok=True)
        aside = local.with_name(f".{local.name}.{uuid.uuid4().hex}.tmp")
        try:
            with _failing(self.uri, "read"):
                with self._fs.open_input_stream(self._path(name)) as source, open(aside, "wb") as target:
                    shutil.copyfileobj(source, target, _CHUNK)
                os.replace(aside, local)
        finally:
            with suppress(OSError):
                aside.unlink()

    def push_new(self, local: Path, prefix: str) -> int:
        """Copy what is missing there of a folder whose files never change; returns how many files."""
        there = self.list(prefix)
        new = [path for path in _files(local) if there.get(_relative(path, local)) != path.stat().st_size]
        for path in new:
            self.push(path, f"{prefix}/{_relative(path, local)}")
        return len(new)

    def pull_new(self, prefix: str, local: Path) -> int:
        """Copy what is missing here of such a folder; returns how many files."""
        there = self.list(prefix)
        new = [name for name in sorted(there) if not (local / name).exists()]
        for name in new:
            self.pull(f"{prefix}/{name}", local / name)
        return len(new)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _make_parent(self, name: str) -> None:
        if isinstance(self._fs, fs.LocalFileSystem):
            self._fs.create_dir(os.path.dirname(self._path(name)), recursive=True)


class RunMirror:
    """Keeps the copy of a run's output folder."""

    def __init__(self, storage: Storage, out: Path) -> None:
        self.storage, self.out = storage, out
        self.prefix = f"runs/{out.name}"

    def restore(self, resume: bool) -> bool:
        """Bring the run here where this machine doesn't have it: whole, or after a kill not at all. True if it did.

        Raises:
            OutputError: there is a run already and it is not resumed, or its folder can't be put in place.
        """
        there = self.storage.list(self.prefix)
        if not there:
            return False
        if not resume:
            raise OutputError(
                f"--storage {self.storage.uri}: holds a run {self.prefix} already; add --resume to go on with it, or "
                "choose another --out name"
            )
        if (self.out / "run.json").exists():
            return False
        complete = {name.rsplit("/", 1)[0] for name in there if name.endswith(f"/{MARKER}")}
        target = self.out.absolute()
        aside = target.with_name(f".{target.name}.restoring")
        try:
            if aside.exists():
                shutil.rmtree(aside)  # of a restore that was killed
            aside.mkdir(parents=True)
            for name in sorted(there):
                if not name.startswith("checkpoints/") or name.rsplit("/", 1)[0] in complete:
                    self.storage.pull(f"{self.prefix}/{name}", aside / name)
            if target.is_dir() and [path.name for path in target.iterdir()] == [LOCK]:
                (target / LOCK).unlink()  # of a start that was killed before it wrote anything
            os.replace(aside, target)
        except OSError as error:
            raise OutputError(
                f"--out {self.out}: the run can't be restored there ({error.strerror}); empty the folder or choose "
                "another place"
            ) from None
        sync_folder(target.parent)
        return True

    def save(self) -> None:
        """Copy the folder there: checkpoints that are complete, their markers last, then drop old ones."""
        there = self.storage.list(self.prefix)
        here = {_relative(path, self.out): path for path in _files(self.out)}
        complete = {name.rsplit("/", 1)[0] for name in here if name.endswith(f"/{MARKER}")}
        for name in sorted(here, key=lambda name: (name.endswith(MARKER), name)):
            is_checkpoint = name.startswith("checkpoints/")
            if is_checkpoint and (name.rsplit("/", 1)[0] not in complete or name in there):
                continue
            if name.endswith(_DATABASE):
                self._push_database(here[name], name)
            elif not name.endswith((f"{_DATABASE}-wal", f"{_DATABASE}-shm", f"{_DATABASE}-journal")):
                self.storage.push(here[name], f"{self.prefix}/{name}")
        old = [name for name in there if name.startswith("checkpoints/") and name not in here]
        for name in sorted(old, key=lambda name: (not name.endswith(MARKER), name)):
            self.storage.delete(f"{self.prefix}/{name}")

    def _push_database(self, path: Path, name: str) -> None:
        """A copy of a SQLite file that may be written to at this moment."""
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(aside)) as target:
                source.backup(target)
            self.storage.push(aside, f"{self.prefix}/{name}")
        finally:
            aside.unlink(missing_ok=True)


def _open(uri: str) -> tuple[Any, str]:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    if scheme == "s3":
        bucket = rest.split("?")[0]
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options: dict[str, Any] = {}
        if endpoint:
            kind, _, host = endpoint.partition("://")
            options = {"endpoint_override": host.rstrip("/"), "scheme": kind}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if region:
            options["region"] = region
        return fs.S3FileSystem(**options, connect_timeout=10, request_timeout=60), bucket
    if scheme in ("file", "gs", "gcs", "hdfs"):
        found, path = fs.FileSystem.from_uri(uri)
        return found, path
    import fsspec

    other, path = fsspec.core.url_to_fs(uri)
    return fs.PyFileSystem(fs.FSSpecHandler(other)), str(path)


class _failing:
    """Turns failures of a file system into one line."""

    def __init__(self, uri: str, verb: str) -> None:
        self._uri, self._verb = uri, verb

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, (OSError, pa.ArrowException)):
            raise OutputError(
                f"--storage {self._uri}: can't be {self._verb} ({_reason(error)}); check the address, the credentials "
                "and that the bucket or folder exists"
            ) from None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
