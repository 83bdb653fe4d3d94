"""Split files in the format of CoOp (Zhou et al., 2022): {"train": [[path, label, class name], ...], "val", "test"}."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from psp_ray.core.errors import DatasetError
from psp_ray.core.paths import is_file, local_path, why_not
from psp_ray.core.tables import read_text
from psp_ray.data.dataset import Dataset, make_dataset
from psp_ray.data.registry import Adapter, Request, register_dataset

PART_OF = {"train": "pool", "val": "val", "test": "test"}


@dataclass(frozen=True)
class Entry:
    """One line of a split: `path` is relative and posix."""

    path: str
    label: int
    class_name: str
    part: str


def read_split(file: Path) -> list[Entry]:
    """Read and check a split file.

    Raises:
        DatasetError: missing, not JSON, not of the format, or with paths that lead out of the data set's folder.
    """
    try:
        content = json.loads(read_text(file.read_bytes()))
    except FileNotFoundError:
        raise DatasetError(f"split file {file} does not exist; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = why_not(error) if isinstance(error, OSError | ValueError) else "lists in lists in lists"
        raise DatasetError(f"split file {file} can't be read as JSON ({reason}); give a CoOp-format file") from None
    if not isinstance(content, dict) or not isinstance(content.get("train"), list):
        raise DatasetError(f"split file {file} has no list 'train'; give a CoOp-format file (train, val, test)")
    entries: list[Entry] = []
    for key, part in PART_OF.items():
        rows = content.get(key, [])
        if not isinstance(rows, list):
            raise DatasetError(f"split file {file}: {key!r} is not a list; give a CoOp-format file")
        for number, row in enumerate(rows):
            entries.append(_entry(file, key, number, row, part))
    if not entries:
        raise DatasetError(f"split file {file} lists no image; fill 'train', 'val' and 'test'")
    return entries


def _entry(file: Path, key: str, number: int, row: Any, part: str) -> Entry:
    where = f"split file {file}: entry {number} of {key!r}"
    if (
        not isinstance(row, list)
        or len(row) != 3
        or not isinstance(row[0], str)
        or not isinstance(row[1], int)
        or isinstance(row[1], bool)
        or not isinstance(row[2], str)
    ):
        raise DatasetError(f"{where} is not [path, label number, class name]; correct it")
    path = PurePosixPath(row[0].replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise DatasetError(f"{where} has the path {row[0]!r}; make it relative to the image folder")
    if row[1] < 0 or not row[2].strip():
        raise DatasetError(f"{where} has a negative label or no class name; correct it")
    return Entry(path.as_posix(), row[1], row[2].strip(), part)


def class_names(file: Path, entries: Sequence[Entry]) -> tuple[list[str], dict[int, int]]:
    """Class names by label, and the place of each label in that list (labels may have gaps).

    Raises:
        DatasetError: a label with two names.
    """
    names: dict[int, str] = {}
    for entry in entries:
        known = names.setdefault(entry.label, entry.class_name)
        if known != entry.class_name:
            raise DatasetError(
                f"split file {file}: label {entry.label} is called {known!r} and {entry.class_name!r}; use one name"
            )
    labels = sorted(names)
    return [names[label] for label in labels], {label: index for index, label in enumerate(labels)}


def build(
    name: str,
    root: Path,
    image_folder: str,
    file: Path,
    templates: Sequence[str] | None = None,
) -> Dataset:
    """The data set of folder `root` whose split file names images relative to `root/image_folder`.

    Raises:
        DatasetError: an unusable split file, or one that names images that are not there.
    """
    entries = read_split(file)
    classes, place = class_names(file, entries)
    prefix = PurePosixPath(image_folder)
    ids = [(prefix / entry.path).as_posix() for entry in entries]
    require_files(name, root, ids, f"split file {file}")
    return make_dataset(
        name,
        classes,
        ids,
        [entry.part for entry in entries],
        [place[entry.label] for entry in entries],
        root=root,
        templates=templates,
    )


def require_files(name: str, root: Path, ids: Sequence[str], source: str) -> None:
    """Raise a DatasetError that counts the files that are not there and names the first."""
    absent = [i for i in ids if not os.path.isfile(os.path.join(root, i))]
    if absent:
        raise DatasetError(
            f"{name}: {len(absent)} of {len(ids)} images named by {source} are not there, the first: "
            f"{os.path.join(root, absent[0])}; complete the images or give another split"
        )


def named_folder(request: Request, folder: str) -> Path:
    """`DATA_ROOT/folder`, or a DatasetError that says what is missing."""
    if request.data_root is None:
        raise DatasetError(f"dataset {request.name!r} needs --data-root: the folder that holds its folder {folder!r}")
    root = request.data_root / folder
    if not root.is_dir():
        raise DatasetError(
            f"dataset {request.name!r}: folder {root} does not exist; download it there or correct --data-root"
        )
    return root


def require_folder(request: Request, folder: Path) -> None:
    if not folder.is_dir():
        raise DatasetError(f"dataset {request.name!r}: image folder {folder} does not exist; unpack the images there")


def register_coop(
    name: str, folder: str, images: str, split_file: str, templates: Sequence[str] | None = None
) -> Adapter:
    """Register a data set in CoOp's layout: `DATA_ROOT/folder/images` and `DATA_ROOT/folder/split_file`."""

    @register_dataset(name, summary=f"`{folder}` in CoOp's layout, with the parts of {Path(split_file).name}.")
    def load(request: Request) -> Dataset:
        root = named_folder(request, folder)
        require_folder(request, root / images)
        file = request.split or root / split_file
        if not is_file(file):
            raise DatasetError(
                f"dataset {name!r}: split file {file} does not exist; put it there or name another with --split"
            )
        return build(name, root, images, file, templates)

    return load


def load_split_folder(request: Request) -> Dataset:
    """A folder with a split file: image paths are relative to the folder or to its `images` sub-folder.

    Raises:
        DatasetError: see `build`; where neither place has all images, the one that lacks fewer is reported.
    """
    root = local_path(request.name)
    assert request.split is not None
    file = request.split
    if not is_file(file) and not file.is_absolute() and is_file(root / file):
        file = root / file
    entries = read_split(file)
    places = ["", "images"] if (root / "images").is_dir() else [""]
    absent = {
        place: sum(not os.path.isfile(os.path.join(root, place, entry.path)) for entry in entries) for place in places
    }
    best = min(places, key=lambda place: absent[place])
    return build(str(Path(os.path.abspath(root)).name) or "folder", root, best, file)
