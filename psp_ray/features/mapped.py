"""Tables and arrays of large data sets as mapped files: the system keeps of them what is used, and they are no memory
of the process's own.

The files have no name; they end with the process, however it ends.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from psp_ray.data.dataset import Dataset

LARGE_BYTES = 16 << 20
"""What is not larger stays in memory."""


def mapped_dataset(dataset: Dataset, folder: str) -> Dataset:
    """The same data set, with names, places and parts in a mapped file where they are large."""
    manifest, truth, source = dataset.manifest, dataset.ground_truth, dataset.embeddings
    if manifest.nbytes <= LARGE_BYTES:
        return dataset
    shared = truth is not None and truth["sample_id"].equals(manifest["sample_id"])
    alike = source is not None and manifest["sample_id"].equals(pa.chunked_array([source.sample_ids]))
    kept = mapped_table(manifest, folder)
    if truth is not None:
        truth = truth.set_column(0, "sample_id", kept["sample_id"]) if shared else mapped_table(truth, folder)
    if source is not None:
        ids = kept["sample_id"] if alike else mapped_table(pa.table({"id": source.sample_ids}), folder)["id"]
        source = replace(source, sample_ids=ids.chunk(0) if ids.num_chunks == 1 else ids.combine_chunks())
    return replace(dataset, manifest=kept, ground_truth=truth, embeddings=source)


def mapped_table(table: pa.Table, folder: str | None) -> pa.Table:
    """The table in one chunk a column, mapped where it is large and `folder` (None: nowhere) has room for it."""
    table = table.combine_chunks()
    if folder is None or table.nbytes <= LARGE_BYTES:
        return table

    def write(handle: IO[bytes]) -> None:
        with pa.ipc.new_file(handle, table.schema) as writer:
            writer.write_table(table)

    with suppress(OSError):
        table = pa.ipc.open_file(pa.py_buffer(_mapped(write, folder))).read_all()
        pa.default_memory_pool().release_unused()
    return table


def mapped_array(array: NDArray[Any], folder: str | None) -> NDArray[Any]:
    """The array, mapped and read-only where it is large and `folder` (None: nowhere) has room for it."""
    if folder is None or array.nbytes <= LARGE_BYTES:
        return array
    with suppress(OSError):
        content = _mapped(lambda handle: handle.write(np.ascontiguousarray(array).data), folder)
        return np.frombuffer(content, array.dtype).reshape(array.shape)
    return array


def _mapped(write: Callable[[IO[bytes]], object], folder: str) -> mmap.mmap:
    with tempfile.TemporaryFile(dir=folder) as handle:
        write(handle)
        handle.flush()
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
