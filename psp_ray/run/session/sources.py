"""What a program hands to a session in place of files: lists of images, arrays of embeddings."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.core.errors import ConfigError
from psp_ray.core.files import write_bytes
from psp_ray.core.tables import csv_text
from psp_ray.run.folder import has_run


class Keeper:
    """Writes what was given beside the run's folder, as `OUT-images.csv` and the like, where the run finds it again.

    Args:
        out: the run's folder; None: named by the data set, so the files are named by their contents.
    """

    def __init__(self, out: Path | None) -> None:
        self._out = out

    def __call__(self, ending: str, data: bytes) -> str:
        """Write a file; returns its path. Raises ConfigError where the run in the folder was given something else: it
        needs its file as long as it lives."""
        out = self._out or Path("runs") / f"session-{hashlib.sha256(data).hexdigest()[:8]}"
        file = out.with_name(f"{out.name}-{ending}")
        if file.is_file() and file.read_bytes() == data:
            return str(file)
        if has_run(out):
            raise ConfigError(
                f"{out}: its run began with other {ending.partition('.')[0]} than these; leave them out "
                f"(Session.load), or choose another folder"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, data)
        return str(file)


def as_dataset(images: Any, ids: Sequence[str] | None, keep: Keeper) -> str:
    """The `--dataset` value for images (a folder, a manifest, files one by one) or embeddings (n, d).

    Raises:
        ConfigError: neither of these, or `ids` of another length.
    """
    if isinstance(images, str | os.PathLike):
        return os.fspath(images)
    if isinstance(images, np.ndarray) and images.dtype.kind not in "OUS":
        if images.ndim != 2 or images.dtype.kind != "f":
            raise ConfigError(
                f"images: an array of shape {images.shape} ({images.dtype}); embeddings are (n, d) numbers"
            )
        names = _names(ids, len(images), [f"{i:0{len(str(len(images)))}d}" for i in range(len(images))])
        return keep("embeddings.npz", _npz(sample_id=names, embedding=images))
    if not isinstance(images, Iterable) or isinstance(images, bytes):
        raise ConfigError(f"images {images!r}: give a folder, a manifest, a list of files or embeddings (n, d)")
    paths = []
    for row, image in enumerate(images):
        if not isinstance(image, str | os.PathLike):
            raise ConfigError(f"images[{row}]: {type(image).__name__} is no path; give the path of a file")
        paths.append(os.path.abspath(os.path.expanduser(os.fspath(image))))
    rows = zip(_names(ids, len(paths), paths), paths, strict=True)
    return keep("images.csv", csv_text([("sample_id", "path"), *rows]).encode())


def as_class_embeddings(given: Any, classes: str | os.PathLike[str] | Sequence[str] | None, keep: Keeper) -> str | None:
    """The `--class-embeddings` value for a file, or an array (C, d) in the order of `classes`, which is a list then."""
    if given is None or isinstance(given, str | os.PathLike):
        return None if given is None else os.fspath(given)
    if classes is None or isinstance(classes, str | os.PathLike):
        raise ConfigError("class_embeddings: an array needs classes as a list, in the same order")
    found = np.asarray(given)
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise ConfigError(f"class_embeddings: of shape {found.shape} ({found.dtype}); give numbers (classes, d)")
    if len(found) != len(classes):
        raise ConfigError(f"class_embeddings: {len(found)} of them for {len(classes)} classes; give one for each")
    return keep("classes.npz", _npz(**{"class": list(classes), "embedding": found}))


def as_classes(given: str | os.PathLike[str] | Sequence[str] | None, keep: Keeper) -> str | None:
    """The `--classes` value for a file, a text with commas, or a list of names.

    Raises ConfigError for what is no list of names, and for names that a file of classes would read as something else.
    """
    if given is None or isinstance(given, str | os.PathLike):
        return None if given is None else os.fspath(given)
    names = list(given) if isinstance(given, Iterable) else [given]
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"classes: {name!r} is no name; give a list of names, or a file")
    if not any("," in name for name in names):
        return ",".join(names)
    for name in names:
        if ":" in name or name.lstrip().startswith("#") or len(name.splitlines()) > 1:
            raise ConfigError(f"classes: {name!r}: beside a name with a comma, none may hold : or #; rename it")
    return keep("classes.txt", "".join(f"{name}\n" for name in names).encode())


def _names(ids: Sequence[str] | None, count: int, default: list[str]) -> list[str]:
    if ids is None:
        return default
    if len(ids) != count:
        raise ConfigError(f"ids: {len(ids)} of them for {count} images; give one for each")
    return [str(name) for name in ids]


def _npz(**columns: Any) -> bytes:
    sink = io.BytesIO()
    arrays: dict[str, Any] = {name: np.ascontiguousarray(values) for name, values in columns.items()}
    np.savez(sink, **arrays)
    return sink.getvalue()
