"""Storage that all nodes reach: a folder (local, NFS), S3 and its like, or whatever fsspec knows.

S3 and Google's storage go through pyarrow's own clients, with the usual variables for credentials (`AWS_ACCESS_KEY_ID`,
...) and `AWS_ENDPOINT_URL` for S3-compatible servers; other schemes need their fsspec package. Under the URI:

    runs/NAME/EXPERIMENT/   copies of the output folder, one generation a round: what --resume restores on a new machine
    cache/...               features, so that nodes without a shared folder can fetch them
"""

from __future__ import annotations

import os
import random
import shutil
import time
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from psp_ray.core.errors import OutputError
from psp_ray.core.files import files_under, make_folder, write_bytes, write_with
from psp_ray.core.ours import mark
from psp_ray.core.sealed import digest_of
from psp_ray.core.writing import writing

_CHUNK = 4 * 2**20
CLAIM_SECONDS = 300.0
"""How long a writer's claim on a name keeps others off: longer than one file takes to write, with all retries."""
_PATIENCE = 30.0
"""How much longer than that a writer waits for others; and how old a claim of its own may be for it to write."""


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

    def mark(self) -> None:
        """Mark a folder of this machine as ours, for it may lie in a data set's. Raises OutputError."""
        if self._is_local:
            make_folder(Path(self._root))
            mark(Path(self._root))

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["uri"])  # type: ignore[misc]

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole: a reader sees the old content or the new. Raises OutputError."""
        with _failing(self.uri, "written"):
            self._make_parent(name)
            if self._is_local:
                write_bytes(Path(self._path(name)), data)
                return
            with self._fs.open_output_stream(self._path(name)) as stream:
                stream.write(data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that nobody has written yet; false where somebody has. Of several writers, one succeeds.

        Local folders do this by a hard link. Object stores list what was written: every writer first leaves a claim
        beside the name and goes on only where it sees no other; whoever sees one withdraws and tries again. A claim of
        a process of this machine that is dead is removed; those of other machines end after `CLAIM_SECONDS` by the
        store's clock, and are waited for.

        Raises:
            OutputError: it can't be written, or others claim the name for ever.
        """
        if self._is_local:
            return self._create_here(Path(self._path(name)), data)
        deadline, pause = time.monotonic() + CLAIM_SECONDS + _PATIENCE, 0.1
        while not self._exists(name):
            claim, since = f"{name}.claims/{uuid.uuid4().hex}.{_own_process()}", time.monotonic()
            self.write(claim, b"1")
            try:
                if self._alone(claim) and time.monotonic() - since < _PATIENCE:
                    if self._exists(name):
                        return False
                    self.write(name, data)
                    return True
            finally:
                self.delete(claim)
            if time.monotonic() > deadline:
                raise OutputError(
                    f"--storage {self.uri}: other machines write {name} at this moment; run the command again"
                )
            time.sleep(random.uniform(0.5, 1.5) * pause)
            pause = min(2 * pause, 5.0)
        return False

    def _create_here(self, path: Path, data: bytes) -> bool:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{uuid.uuid4().hex}.tmp")
            write_bytes(aside, data)
            try:
                os.link(aside, path)
            except FileExistsError:
                return False
            finally:
                aside.unlink(missing_ok=True)
        return True

    def _alone(self, claim: str) -> bool:
        """Whether no other living claim lies beside ours."""
        folder, _, own = claim.rpartition("/")
        with _failing(self.uri, "read"):
            found = self._fs.get_file_info(fs.FileSelector(self._path(folder), allow_not_found=True))
        times = {info.path.rpartition("/")[2]: info.mtime for info in found if info.type == fs.FileType.File}
        mine = times.pop(own, None)
        for dead in [other for other in times if _is_dead(other.partition(".")[2])]:
            del times[dead]
            with suppress(OutputError):  # somebody else has removed it
                self.delete(f"{folder}/{dead}")
        # Where a store tells no times, a claim never ends by itself.
        return all(
            mine is not None and at is not None and (mine - at).total_seconds() > CLAIM_SECONDS for at in times.values()
        )

    def _exists(self, name: str) -> bool:
        with _failing(self.uri, "read"):
            return bool(self._fs.get_file_info(self._path(name)).type == fs.FileType.File)

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
        names = {
            info.path[len(base) :].lstrip("/"): int(info.size or 0) for info in found if info.type == fs.FileType.File
        }
        return {name: size for name, size in names.items() if not name.endswith(".tmp")}

    def delete(self, name: str) -> None:
        with _failing(self.uri, "written"):
            self._fs.delete_file(self._path(name))

    def push(self, local: Path, name: str) -> None:
        """Copy a local file there."""
        with _failing(self.uri, "written"), open(local, "rb") as source:
            self._make_parent(name)
            if self._is_local:
                write_with(Path(self._path(name)), lambda target: shutil.copyfileobj(source, target, _CHUNK))
                return
            with self._fs.open_output_stream(self._path(name)) as target:
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

    @property
    def _is_local(self) -> bool:
        return isinstance(self._fs, fs.LocalFileSystem)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _make_parent(self, name: str) -> None:
        if self._is_local:
            self._fs.create_dir(os.path.dirname(self._path(name)), recursive=True)


@cache
def _own_machine() -> str:
    """Names this boot of this machine, and who sees the same processes on it; "" where that can't be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return digest_of(f"{boot} {os.readlink('/proc/self/ns/pid')}".encode())
    except OSError:
        return ""


def _own_process() -> str:
    return f"{_own_machine()}.{os.getpid()}"


def _is_dead(process: str) -> bool:
    """Whether a process, as `_own_process` names it, was one of this machine and has ended."""
    machine, _, number = process.partition(".")
    if not machine or machine != _own_machine() or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


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
