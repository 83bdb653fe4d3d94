"""Cached features out of the cache, as a table that `--dataset` reads again (here, or by any other tool)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from psp_ray.core.errors import OutputError
from psp_ray.core.files import write_parquet, write_with
from psp_ray.core.names import Digests
from psp_ray.core.records import Float16Array, TextState
from psp_ray.data.dataset import PARTS
from psp_ray.data.embedded.classes import LOGIT_SCALE_KEY
from psp_ray.features.featurize import FeaturizedDataset
from psp_ray.features.segments import half_lists

_ROWS = 1 << 14
"""Rows of a row group: what is in memory at a time."""


def check_export(path: str | Path) -> None:
    """Raise an OutputError for a name that doesn't end in .parquet, or a folder that isn't there."""
    place = Path(path)
    if place.suffix != ".parquet":
        raise OutputError(f"--export {path}: give a name that ends in .parquet")
    if not place.absolute().parent.is_dir():
        raise OutputError(f"--export {path}: folder {place.parent} does not exist; make it first")


def write_features(data: FeaturizedDataset, path: str | Path, about: dict[str, str] | None = None) -> int:
    """Write pool, val and test with their features; returns the number of rows.

    Columns: `sample_id`, `part`, `label` (class name, null where nobody knows), `path` (null where the data set holds
    the image's bytes), `content_hash`, `embedding` fixed_size_list<halffloat>[d], and where the pool has views `views`
    fixed_size_list<halffloat>[L * d] (val and test, which have none, repeat their embedding).

    Args:
        about: texts for the file's metadata, such as the model's name.

    Raises:
        OutputError: another ending than .parquet, or the file can't be written.
    """
    check_export(path)
    n_views, dim = data.pool.n_views, data.pool.dim
    fields = [(name, pa.string()) for name in ("sample_id", "part", "label", "path", "content_hash")]
    fields.append(("embedding", pa.list_(pa.float16(), dim)))
    if n_views:
        fields.append(("views", pa.list_(pa.float16(), n_views * dim)))
    schema = pa.schema(fields).with_metadata(about or {})
    rows = 0

    def write(handle: IO[bytes]) -> None:
        nonlocal rows
        with pq.ParquetWriter(handle, schema, compression="zstd") as writer:
            for columns in _blocks(data):
                table = pa.table(columns, schema=schema)
                writer.write_table(table)
                rows += table.num_rows

    write_with(Path(path), write)
    return rows


def _blocks(data: FeaturizedDataset) -> Iterator[list[pa.Array]]:
    """Columns of some rows at a time, part by part."""
    n_views = data.pool.n_views
    names = pa.array(data.dataset.classes, pa.string())
    readers = {"pool": data.pool, "val": data.val.reader, "test": data.test.reader}
    for part in PARTS:
        manifest, reader = data.dataset.part(part), readers[part]
        labels = data.dataset.known_labels(part)
        for start in range(0, reader.n, _ROWS):
            at = np.arange(start, min(start + _ROWS, reader.n))
            some = manifest.slice(start, len(at))
            known = pa.array(labels[at], pa.int32(), mask=labels[at] < 0)
            hashes = data.content_hashes if part == "pool" else Digests(reader.hashes)
            features = reader.rows(at)
            columns = [
                some["sample_id"].combine_chunks(),
                pa.array([part] * len(at)),
                names.take(known),
                some["path"].combine_chunks(),
                pa.array(hashes[start : start + len(at)]),
                half_lists(features),
            ]
            if n_views:
                columns.append(half_lists(reader.views_at(at) if part == "pool" else _repeated(features, n_views)))
            yield columns


def _repeated(features: Float16Array, n_views: int) -> Float16Array:
    return np.ascontiguousarray(np.tile(features, (1, n_views)))


def write_class_embeddings(classes: Sequence[str], text: TextState, path: str | Path) -> None:
    """Write class embeddings for `--class-embeddings`: `class`, `embedding`; the logit scale is in the metadata.

    Raises:
        OutputError: another ending than .parquet, or the file can't be written.
    """
    check_export(path)
    vectors = pa.array(text.features.astype(np.float32).tolist(), pa.list_(pa.float32(), text.features.shape[1]))
    table = pa.table({"class": list(classes), "embedding": vectors})
    scale = {LOGIT_SCALE_KEY: repr(float(text.logit_scale)).encode()}
    write_parquet(Path(path), table.replace_schema_metadata(scale))
