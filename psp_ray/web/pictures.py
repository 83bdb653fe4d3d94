"""Pictures of the pool for the page: made once, kept in the run's folder under the hash of their contents."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from psp_ray.core.errors import OutputError
from psp_ray.core.files import make_folder, write_bytes
from psp_ray.data.thumbnails import SIZES, jpeg

FOLDER = ".thumbnails"
"""In the run's folder; its files are hidden, too, so that copies of the run leave them out."""
TYPE = "image/jpeg"


class PictureSource(Protocol):
    """Where the page has its pictures from. Safe for threads."""

    def get(self, position: int, size: str) -> bytes | None:
        """The JPEG at a position in `SIZES[size]`; None where there is none."""
        ...


class Pictures:
    """JPEGs of pool images, upright and at most as large as a page needs. Safe for threads.

    Args:
        pool: `path` and `image`, as of a data set's pool. content_hashes: (n,) in the same order.
    """

    def __init__(self, folder: Path, pool: pa.Table, content_hashes: Sequence[str]) -> None:
        self._folder, self._hashes = folder / FOLDER, list(content_hashes)
        self._paths, self._images = pool["path"], pool["image"]

    def get(self, position: int, size: str) -> bytes | None:
        """The picture at a position in `SIZES[size]`; None where the sample has none, or it can't be read."""
        file = self._folder / f".{self._hashes[position]}-{size}.jpg"
        try:
            return file.read_bytes()
        except OSError:
            data = jpeg(self._paths[position].as_py(), self._images[position].as_py(), size)
        if data is not None:
            with suppress(OutputError):  # a full disk costs time at the next look, not this one
                make_folder(self._folder)
                write_bytes(file, data)
        return data


__all__ = ["FOLDER", "SIZES", "TYPE", "PictureSource", "Pictures"]
