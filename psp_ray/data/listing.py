"""Image files below a folder."""

from __future__ import annotations

import os
from pathlib import Path

from psp_ray.core.errors import DatasetError
from psp_ray.core.ours import is_ours
from psp_ray.data.images import image_extensions


def image_files(root: Path) -> list[tuple[str, ...]]:
    """Image files below `root` as path parts relative to it. Links are followed, each real folder once on a path; what
    psp-ray wrote there is left out."""
    extensions = image_extensions()
    found: list[tuple[str, ...]] = []

    def walk(folder: str, parts: tuple[str, ...], above: frozenset[str]) -> None:
        real = os.path.realpath(folder)
        if real in above:
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if entry.is_dir():
                    if not is_ours(entry.path):
                        walk(entry.path, (*parts, entry.name), above | {real})
                elif os.path.splitext(entry.name)[1].lower() in extensions:
                    found.append((*parts, entry.name))

    try:
        walk(str(root), (), frozenset())
    except OSError as error:
        raise DatasetError(
            f"folder {error.filename} can't be read ({error.strerror}); change its permissions"
        ) from None
    return found
