"""Files that are either there whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save

from psp_ray.core.errors import OutputError
from psp_ray.core.records import StateDict

LOCK = ".lock"


def write_bytes(path: Path, data: bytes) -> None:
    """Write aside, flush to disk, rename: a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


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
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


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


def read_tensors(path: Path) -> StateDict:
    return dict(load_file(path))


@contextmanager
def alone(folder: Path, wait: float = 0.0) -> Iterator[bool]:
    """Only one process works in a folder; the lock ends with it. Waits `wait` seconds for another one to end.

    Gives False where the file system knows no locks: then nothing keeps a second process out, and the caller says so.

    Raises:
        OutputError: another one is at work, or the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(f"--out {folder}: can't be written ({error.strerror}); choose another folder") from None
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
