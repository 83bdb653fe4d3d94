"""Storage that all nodes reach: a folder (local, NFS), S3 and its like, or whatever fsspec knows.

S3 and Google's storage go through pyarrow's own clients, with the usual variables for credentials (`AWS_ACCESS_KEY_ID`,
...) and `AWS_ENDPOINT_URL` for S3-compatible servers; other schemes need their fsspec package. Under the URI:

    runs/NAME/     a copy of the output folder, made after every round: what --resume restores on a new machine
    cache/...      features, so that nodes without a shared folder can fetch them
"""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from psp_ray.core.errors import OutputError
from psp_ray.core.files import files_under

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
        new = [item for item in files_under(local).items() if there.get(item[0]) != item[1].stat().st_size]
        for name, path in new:
            self.push(path, f"{prefix}/{name}")
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
