"""Files that are either there whole or not at all. Whatever writes goes through here: what a disk, a mount or rights
forbid becomes one line that names the path and the remedy (`psp_ray.core.writing`)."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save

from psp_ray.core.errors import OutputError
from psp_ray.core.records import StateDict
from psp_ray.core.writing import WRITE_FAULTS, writing

LOCK = ".lock"
_PLAIN = {"U8": "u1", "I32": "<i4", "I64": "<i8", "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8"}


def write_bytes(path: Path, data: bytes) -> None:
    """Write aside, flush to disk, rename: a reader sees the old content or the new, never a part.

    Raises:
        OutputError: as `writing`.
    """
    write_with(path, lambda handle: handle.write(data))


def write_with(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """As `write_bytes`, for what writes itself to an open file: pictures, long tables."""
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}-{uuid4().hex[:8]}.tmp")
    with writing(path):
        try:
            with open(temporary, "wb") as handle:
                write(handle)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """The folder and those above it. Raises OutputError as `writing`, or where a file has its name."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_tree(path: Path) -> None:
    """A folder and all below it; nothing where it isn't there. Raises OutputError as `writing`."""
    with writing(path), suppress(FileNotFoundError):
        shutil.rmtree(path)


def link_or_copy(source: str, target: Path) -> None:
    """A link to `source`, or a copy where the file system has no links. Raises OutputError as `writing`."""
    with writing(target):
        try:
            target.symlink_to(source)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno in WRITE_FAULTS - {errno.EPERM, errno.EACCES}:
                raise
            shutil.copyfile(source, target)


def save_figure(figure: Any, path: Path, dpi: int) -> None:
    """A matplotlib figure as a PNG file, whole or not at all. Raises OutputError as `writing`."""
    write_with(path, lambda handle: figure.savefig(handle, format="png", dpi=dpi))


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """As `write_text`, of texts that come one after the other."""
    write_with(path, lambda handle: handle.writelines(line.encode("utf-8") for line in lines))


def write_json(path: Path, value: Any) -> None:
    """JSON with two-space indent; NaN is written as null, since JSON has no NaN."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def plain(value: Any) -> Any:
    """`value` with numpy scalars as Python numbers and NaN as None, through lists and dictionaries."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write_parquet(path: Path, table: pa.Table) -> None:
    """With checksums, which readers may verify. Raises OutputError as `writing`."""
    write_with(path, lambda handle: pq.write_table(table, handle, compression="zstd", write_page_checksum=True))


def write_parquet_groups(path: Path, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """As `write_parquet`, of tables that come one after the other: each is a row group."""

    def write(handle: IO[bytes]) -> None:
        with pq.ParquetWriter(handle, schema, compression="zstd", write_page_checksum=True) as writer:
            for table in groups:
                writer.write_table(table)

    write_with(path, write)


def write_tensors(path: Path, tensors: StateDict, metadata: dict[str, str] | None = None) -> None:
    """Safetensors file of numpy arrays; scalars keep their 0-d shape."""
    contiguous = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in tensors.items()}
    write_bytes(path, _ordered_header(save(contiguous, metadata=metadata)))


def _ordered_header(data: bytes) -> bytes:
    """The same safetensors file with its metadata in alphabetical order: the library writes it in any order."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if "__metadata__" not in header:
        return data
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def write_large_tensors(path: Path, tensors: StateDict) -> None:
    """As `write_tensors`, for arrays that there is no memory to copy: written one after the other as they lie there."""
    names = {np.dtype(kind): name for name, kind in _PLAIN.items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    header, end = {}, 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def write(handle: IO[bytes]) -> None:
        handle.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            handle.write(array.reshape(-1).view(np.uint8).data)

    write_with(path, write)


def files_under(folder: Path) -> dict[str, Path]:
    """Every file below `folder` by its name relative to it, in order; hidden ones are left out."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path for path in found}


def read_tensors(path: Path) -> StateDict:
    return dict(load_file(path))


def map_tensors(path: Path) -> StateDict:
    """The same, read-only and mapped: no memory of the process's own, however large they are.

    Raises ValueError, KeyError, AttributeError or TypeError where it is no safetensors file of plain numbers, OSError
    where it can't be opened.
    """
    with open(path, "rb") as handle:
        content = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:start]))
    tensors: StateDict = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            kind = np.dtype(_PLAIN[entry["dtype"]])
            part = content[start + first : start + last]
            if len(part) != last - first:
                raise ValueError(f"{path}: is cut short")
            flat = np.frombuffer(part, kind) if last > first else np.zeros(0, kind)
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


@contextmanager
def alone(folder: Path, wait: float = 0.0) -> Iterator[bool]:
    """Only one process works in a folder; the lock ends with it. Waits `wait` seconds for another one to end.

    Gives False where the file system knows no locks: then nothing keeps a second process out, and the caller says so.

    Raises:
        OutputError: another one is at work, or the folder can't be written.
    """
    with writing(f"--out {folder}", "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + wait
        while (locked := _locked(descriptor)) is False:
            if time.monotonic() >= deadline:
                raise OutputError(
                    f"--out {folder}: another process is at work there; wait for it, or choose another folder"
                )
            time.sleep(0.2)
        yield locked is True
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool | None:
    """Whether the lock is ours now; None where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
