"""A query set laid out for people: its images linked and numbered, a contact sheet, and the query.csv to fill in."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from PIL import Image

from psp_ray.core.files import link_or_copy, make_folder, read_json, remove_tree, write_bytes, write_json
from psp_ray.core.names import ABSENT, Names
from psp_ray.data.images import is_url, read_file
from psp_ray.labels.annotators.base import Item
from psp_ray.labels.contact_sheet import write_contact_sheets
from psp_ray.labels.query import QUERY, write_table

IMAGES = "images"
INDEX = "shown.json"
"""In a round's folder: the file in `images/` that shows each sample ever asked for, empty where it has no picture, or
is not asked for any more. Tables go to people and come back; this stays."""
SCORES = "scores.json"
"""In a round's folder: how probable the suggestion for a sample is."""
_SHOWN = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def laid_out(folder: Path) -> dict[str, Path]:
    """{sample_id: the file that shows it} of a round's folder, by our own record; empty where there is none.

    A file outside of `images/` is in none of it, whatever the record says.
    """
    images = folder / IMAGES
    return {sample: images / name for sample, name in _index(folder).items() if name and Path(name).name == name}


def asked_for(folder: Path) -> list[str]:
    """The samples that the table of a round's folder ever asked for, by our own record; empty where there is none."""
    return list(_index(folder))


def scores_of(folder: Path) -> dict[str, float]:
    """{sample_id: probability of its suggestion} of a round's folder; empty where none was made."""
    try:
        return {str(sample): float(score) for sample, score in read_json(folder / SCORES).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def note_shown(folder: Path, changes: Mapping[str, Path | None]) -> None:
    """Note which file in `images/` shows each of some samples, None: none. Raises OutputError."""
    names = {sample: "" if path is None else path.name for sample, path in changes.items()}
    write_json(folder / INDEX, _index(folder) | names)


def note_scores(folder: Path, items: Sequence[Item]) -> None:
    """Note how probable the suggestions for more samples are. Raises OutputError."""
    new = {item.sample_id: item.confidence for item in items if item.confidence}
    if new:
        write_json(folder / SCORES, scores_of(folder) | new)


def _index(folder: Path) -> dict[str, str]:
    try:
        return {str(sample): str(name) for sample, name in read_json(folder / INDEX).items()}
    except (OSError, ValueError, AttributeError):
        return {}


class Layout:
    """Lays query sets of a pool out. `pool`: columns `sample_id`, `path` and `image`, both null where a sample is known
    by its embedding alone; such a sample has a line but no picture."""

    def __init__(self, pool: pa.Table) -> None:
        self._pool, self._names = pool, Names.of(pool["sample_id"])

    def write(self, folder: Path, items: Sequence[Item]) -> None:
        """Images and contact sheets first, `query.csv` last: where it is, all is. Raises OutputError."""
        remove_tree(folder / IMAGES)
        make_folder(folder)
        width = max(3, len(str(len(items))))
        lines, pictures = [], []
        index: dict[str, str] = {}
        for number, item in enumerate(items, 1):
            link, path = self.show(folder, f"{number:0{width}d}", item.sample_id)
            lines.append([item.sample_id, path, f"{IMAGES}/{link.name}" if link is not None else ""])
            index[item.sample_id] = link.name if link is not None else ""
            if link is not None:
                pictures.append((f"{number:0{width}d}", link))
        write_contact_sheets(folder, pictures)
        write_json(folder / INDEX, index)
        write_json(folder / SCORES, {item.sample_id: item.confidence for item in items if item.confidence})
        suggested = any(item.suggestion for item in items)
        header = ["sample_id", "path", "image", *(["suggestion"] if suggested else []), "label"]
        ends = [[item.suggestion, ""] if suggested else [""] for item in items]
        write_table(folder / QUERY, [header, *([*line, *end] for line, end in zip(lines, ends, strict=True))])

    def path_of(self, sample_id: str) -> str:
        """Where the sample's image is; empty where the data set holds its bytes, or it has none."""
        return str(self._pool["path"][self._row(sample_id)].as_py() or "")

    def pictured(self, sample_id: str) -> bool:
        """Whether there is an image of the sample."""
        return bool(self.path_of(sample_id)) or self._pool["image"][self._row(sample_id)].is_valid

    def _row(self, sample_id: str) -> int:
        row = self._names.position(sample_id)
        if row == ABSENT:
            raise KeyError(sample_id)
        return row

    def show(self, folder: Path, number: str, sample_id: str) -> tuple[Path | None, str]:
        """Link the image (or write its bytes) as `images/NUMBER_name` of a round's folder; returns the new path (None:
        it has no picture) and the original one. Raises OutputError."""
        folder, path = folder / IMAGES, self.path_of(sample_id)
        data: bytes | None = self._pool["image"][self._row(sample_id)].as_py()
        if data is None and not path:
            return None, ""
        make_folder(folder)
        stem = re.sub(r"[^\w.-]+", "_", os.path.basename(path or sample_id))[-80:]
        target = folder / f"{number}_{stem}"
        if data is not None or is_url(path):
            data = read_file(path) if data is None else data
            if target.suffix.lower() not in _SHOWN:
                target = target.with_name(target.name + _suffix(data))
            write_bytes(target, data)
            return target, path or str(target)
        link_or_copy(path, target)
        return target, path


def _suffix(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        return "." + (image.format or "png").lower()
