"""Embeddings of the classes that users bring in place of a text tower: `--class-embeddings FILE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from psp_ray.core.errors import DatasetError
from psp_ray.core.paths import local_path
from psp_ray.core.records import Float32Array, TextState
from psp_ray.core.words import did_you_mean, normalize_name
from psp_ray.data.classes import ClassList
from psp_ray.data.columns import LABEL_COLUMNS
from psp_ray.data.embedded.source import as_array, find_columns, shape_of
from psp_ray.data.embedded.tables import open_table, read_columns
from psp_ray.data.embedded.vectors import more_rows, vector_rows

LOGIT_SCALE_KEY = b"logit_scale"
"""Metadata of a table of class embeddings (and of `featurize --export`): the scale that belongs to them."""
DEFAULT_LOGIT_SCALE = 100.0
"""CLIP's own, where neither the file nor the user says another."""
CLASS_COLUMNS = ("class", "class_name", "name", *LABEL_COLUMNS)


@dataclass(frozen=True, eq=False)
class ClassEmbeddings:
    """One embedding a class: `features` (C, d) float32, L2-normalized, in the order of `names`; `logit_scale` > 0."""

    names: list[str]
    features: Float32Array
    logit_scale: float
    source: str

    @property
    def class_list(self) -> ClassList:
        return ClassList(self.names, {}, self.source)

    def text_state(
        self,
        classes: Sequence[str],
        dim: int,
        former: Mapping[str, Sequence[str]] | None = None,
        vectors: Mapping[str, Sequence[float]] | None = None,
    ) -> TextState:
        """The teacher over `classes`, in their order; names match regardless of case, `_` and `-`.

        `former`: what renamed classes were called before; `vectors`: embeddings of classes that the file doesn't name.

        Raises:
            DatasetError: a class without an embedding, or embeddings of another width than `dim`.
        """
        if self.features.shape[1] != dim:
            raise DatasetError(
                f"{self.source}: class embeddings have {self.features.shape[1]} numbers but the data set's {dim}; "
                "both must be of one model"
            )
        place = {normalize_name(name): row for row, name in enumerate(self.names)}
        for name in classes:
            old = (place.get(normalize_name(other)) for other in (former or {}).get(name, ()))
            row = next((row for row in old if row is not None), None)
            if row is not None:
                place.setdefault(normalize_name(name), row)
        features = self.features
        for name, vector in (vectors or {}).items():
            if normalize_name(name) not in place:
                place[normalize_name(name)] = len(features)
                features = np.concatenate([features, _unit(name, vector, dim)])
        missing = [name for name in classes if normalize_name(name) not in place]
        if missing:
            more = f" ({len(missing)} of {len(classes)} classes have none)" if len(missing) > 1 else ""
            raise DatasetError(
                f"{self.source}: no embedding of class {missing[0]!r}{more}{did_you_mean(missing[0], self.names)}; "
                "add a row for each class"
            )
        return TextState(features[[place[normalize_name(name)] for name in classes]], self.logit_scale)


def read_class_embeddings(path: str, logit_scale: float | None = None) -> ClassEmbeddings:
    """Class embeddings from a table (Parquet, Arrow, npz, JSON lines) with columns `class` and `embedding`.

    Args:
        logit_scale: default: what the file's metadata say under `logit_scale`, else 100.

    Raises:
        DatasetError: in one line with file and row: unreadable, a column missing, fewer than two classes, a class
            without a name or there twice, a row with NaN, infinity or nothing but zeros.
    """
    table = open_table(local_path(path))
    columns = find_columns(table)
    by_name = {name.lower(): name for name in table.schema.names}
    column = next((by_name[name] for name in CLASS_COLUMNS if name in by_name), None)
    if column is None:
        raise DatasetError(f"{path}: no column 'class' (columns: {', '.join(table.schema.names)}); add one")
    width, _ = shape_of(table, columns)
    read = read_columns(table, [column, columns.embedding])
    names = [str(name).strip() if name is not None else "" for name in read[column].to_pylist()]
    seen: dict[str, int] = {}
    for row, name in enumerate(names, 1):
        if not name:
            raise DatasetError(f"{path}: {column}: row {row} is empty; name the class or remove the row")
        if seen.setdefault(normalize_name(name), row) != row:
            raise DatasetError(
                f"{path}: row {row}: class {name!r} is in row {seen[normalize_name(name)]} too; keep one"
            )
    if len(names) < 2:
        raise DatasetError(f"{path}: {len(names)} classes; at least two are needed")
    what = f"{path}: {columns.embedding}"
    vectors = vector_rows(as_array(read[columns.embedding]), width, range(1, len(names) + 1), what)
    features = unit_rows(vectors, range(1, len(names) + 1), what).astype(np.float32)
    return ClassEmbeddings(names, features, logit_scale or _stored_scale(path, table.schema.metadata), path)


def _unit(name: str, vector: Sequence[float], dim: int) -> Float32Array:
    """One embedding (1, d) of length one. Raises DatasetError for another width, NaN or zeros."""
    row = np.asarray(vector, np.float64)
    if row.shape != (dim,):
        raise DatasetError(f"embedding of class {name!r}: of shape {row.shape}; give {dim} numbers")
    return unit_rows(row[None], [1], f"embedding of class {name!r}").astype(np.float32)


def unit_rows(vectors: np.ndarray, where: Sequence[int], what: str) -> np.ndarray:
    """Rows (m, d) of any float type scaled to length one, in float64.

    Args:
        where: row numbers for messages. what: file and column, for messages.

    Raises:
        DatasetError: a row with NaN or infinity, or of nothing but zeros.
    """
    wide = vectors.astype(np.float64)
    top = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    for bad, reason in ((~np.isfinite(top[:, 0]), "holds NaN or infinity"), (top[:, 0] == 0, "is all zeros")):
        if bad.any():
            rows = [int(where[int(place)]) for place in np.flatnonzero(bad)]
            raise DatasetError(f"{what}: row {rows[0]} {reason}{more_rows(rows)}; repair it or leave the row out")
    wide /= top  # first by the largest number, so that no square overflows
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide


def _stored_scale(path: str, metadata: dict[bytes, bytes] | None) -> float:
    text = (metadata or {}).get(LOGIT_SCALE_KEY)
    if text is None:
        return DEFAULT_LOGIT_SCALE
    try:
        scale = float(text)
    except ValueError:
        scale = float("nan")
    if not 0 < scale < float("inf"):
        raise DatasetError(f"{path}: its logit_scale {text.decode(errors='replace')!r} is no scale; give --logit-scale")
    return scale
