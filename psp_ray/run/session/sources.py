"""What a program hands to a session in place of files: lists of images, arrays of embeddings."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.core.errors import ConfigError
from psp_ray.core.files import write_bytes, write_text
from psp_ray.core.tables import csv_text


def as_dataset(images: Any, ids: Sequence[str] | None, out: Path) -> str:
    """The `--dataset` value for images (a folder, a manifest, a list of files) or embeddings (n, d).

    Lists and arrays are written beside the run's folder, as `OUT-images.csv` or `OUT-embeddings.npz`, which the run
    needs as long as it lives.

    Raises:
        ConfigError: neither of these, or `ids` of another length.
    """
    if isinstance(images, str | os.PathLike):
        return os.fspath(images)
    count = len(images)
    if ids is not None and len(ids) != count:
        raise ConfigError(f"ids: {len(ids)} of them for {count} images; give one for each")
    out.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(images, np.ndarray):
        if images.ndim != 2 or images.dtype.kind != "f":
            raise ConfigError(
                f"images: an array of shape {images.shape} ({images.dtype}); embeddings are (n, d) numbers"
            )
        width = len(str(count))
        names = [f"{i:0{width}d}" for i in range(count)] if ids is None else list(ids)
        return _npz(out.with_name(f"{out.name}-embeddings.npz"), sample_id=names, embedding=images)
    file = out.with_name(f"{out.name}-images.csv")
    paths = [os.path.abspath(os.path.expanduser(os.fspath(image))) for image in images]
    write_text(file, csv_text([("sample_id", "path"), *zip(paths if ids is None else ids, paths, strict=True)]))
    return str(file)


def as_class_embeddings(given: Any, classes: str | os.PathLike[str] | Sequence[str] | None, out: Path) -> str | None:
    """The `--class-embeddings` value for a file, or an array (C, d) in the order of `classes`, which is a list then."""
    if given is None or isinstance(given, str | os.PathLike):
        return None if given is None else os.fspath(given)
    if classes is None or isinstance(classes, str | os.PathLike):
        raise ConfigError("class_embeddings: an array needs classes as a list, in the same order")
    if len(given) != len(classes):
        raise ConfigError(f"class_embeddings: {len(given)} of them for {len(classes)} classes; give one for each")
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_name(f"{out.name}-classes.npz")
    return _npz(file, **{"class": list(classes), "embedding": np.asarray(given)})


def as_classes(given: str | os.PathLike[str] | Sequence[str] | None, out: Path) -> str | None:
    """The `--classes` value for a file, a text with commas, or a list of names."""
    if given is None or isinstance(given, str | os.PathLike):
        return None if given is None else os.fspath(given)
    if not any("," in name for name in given):
        return ",".join(given)
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_name(f"{out.name}-classes.txt")
    write_text(file, "".join(f"{name}\n" for name in given))
    return str(file)


def _npz(file: Path, **columns: Any) -> str:
    sink = io.BytesIO()
    arrays: dict[str, Any] = {name: np.ascontiguousarray(values) for name, values in columns.items()}
    np.savez(sink, **arrays)
    write_bytes(file, sink.getvalue())
    return str(file)
