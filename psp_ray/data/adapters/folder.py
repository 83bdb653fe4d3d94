"""A folder of images: a sub-folder for each class, or train, val and test folders that hold such sub-folders; with
`--classes` also plain images, Parquet files with image bytes, and Hugging Face's `metadata.csv`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from psp_ray.core.errors import DatasetError
from psp_ray.core.paths import local_path
from psp_ray.core.words import normalize_name
from psp_ray.data.adapters.imagefolder import load_imagefolder, metadata_files
from psp_ray.data.classes import ClassList
from psp_ray.data.columns import part_of_folder
from psp_ray.data.dataset import Dataset, make_dataset
from psp_ray.data.listing import LOOSE, Listing, Parts, image_files
from psp_ray.data.manifest import descriptions, load_parquet_folder, parquet_files
from psp_ray.data.parts import stratified_parts
from psp_ray.data.registry import Request


def load_folder(request: Request) -> Dataset:
    """List a folder of class folders.

    `FOLDER/CLASS/...` gets fixed stratified parts (70 % pool, 10 % val, 20 % test of each class, by a hash of the
    file's name). `FOLDER/train/CLASS/...`, `FOLDER/val/CLASS/...`, `FOLDER/test/CLASS/...` (also `Training`,
    `test_set` and the like) are taken as they are; a part without a folder is empty. Images may lie deeper inside a
    class folder. What is left out is in the data set's notes. Where class names are given and no sub-folder is called
    so, all images are pool without labels. A folder without images but with Parquet files is read as `datasets` writes
    them, one with `metadata.csv` (`.jsonl`) as its ImageFolder does.

    Raises:
        DatasetError: no images, fewer than two classes, or folders that may be classes as well as parts.
    """
    root = local_path(request.name)
    name = Path(os.path.abspath(root)).name or "folder"
    found = image_files(root)
    files = found.files
    if not files and parquet_files(root):
        return load_parquet_folder(root, request.classes, has_test=request.has_test)
    metadata = metadata_files(root)
    if metadata:
        return load_imagefolder(name, root, metadata, found, request)
    _require_images(root, found)
    known_folders = request.classes is not None and _sorted_by_class(root, files, request.classes)
    has_parts = not known_folders and _has_parts(root, files, named=request.classes is not None)
    if request.classes is not None and not has_parts and not known_folders:
        return _load_pool_folder(root, found, request.classes)
    depth = 1 if has_parts else 0
    kept = [parts for parts in files if len(parts) >= depth + 2]
    for parts in files:
        if len(parts) < depth + 2:
            found.skip(parts, LOOSE)
    classes = _class_folders(root, kept, len(files), depth)
    place = {folder: index for index, folder in enumerate(classes)}
    if request.classes is not None:
        classes, place = _as_given(root, classes, request.classes)
    ids = ["/".join(parts) for parts in kept]
    labels = [place[parts[depth]] for parts in kept]
    if has_parts:
        splits = [part_of_folder(parts[0]) or "pool" for parts in kept]
    else:
        splits = stratified_parts(ids, labels, val=0.1, test=0.0 if request.has_test else 0.2)
    return make_dataset(
        name,
        classes,
        ids,
        splits,
        labels,
        root=root,
        descriptions=descriptions(request.classes),
        notes=found.notes(),
    )


def _require_images(root: Path, found: Listing) -> None:
    if found.files:
        return
    if not any(root.iterdir()):
        raise DatasetError(f"dataset folder {root} is empty; give a sub-folder of images per class")
    left = f" ({'; '.join(found.notes())})" if found.skipped else ""
    raise DatasetError(f"dataset folder {root} holds no image file{left}; give a sub-folder of images per class")


def _class_folders(root: Path, kept: Sequence[Parts], n_files: int, depth: int) -> list[str]:
    """The names of the class folders, sorted. Raises DatasetError for fewer than two."""
    if not kept:
        raise DatasetError(
            f"dataset folder {root} holds {n_files} images but no class folder; "
            "sort them into a sub-folder per class, or name the classes with --classes"
        )
    classes = sorted({parts[depth] for parts in kept})
    if len(classes) == 1:
        inner = {parts[depth + 1] for parts in kept if len(parts) > depth + 2}
        hint = f", or give {root / classes[0]}" if len(inner) > 1 and not depth else ""
        raise DatasetError(
            f"dataset folder {root} holds only one class ({classes[0]!r}); give a sub-folder for each class{hint}"
        )
    return classes


def _has_parts(root: Path, files: Sequence[Parts], *, named: bool) -> bool:
    """Whether the folders on top are parts (train, val, test) with class folders inside.

    Args:
        named: class names were given, and folders are called otherwise.

    Raises:
        DatasetError: it can't be told.
    """
    tops = sorted({parts[0] for parts in files if len(parts) >= 2})
    as_parts = {top: part for top in tops if (part := part_of_folder(top)) is not None}
    nested = sorted({parts[0] for parts in files if len(parts) >= 3} & set(as_parts))
    others = [top for top in tops if top not in as_parts]
    if nested and others:
        raise DatasetError(
            f"dataset folder {root}: {_listed(nested)} may be a part (train, val, test) or a class, beside "
            f"{_listed(others)}; if it is a part, move {_listed(others)} elsewhere; if it is a class, give --classes "
            f"{','.join(tops[:8])}"
        )
    if not nested and len(set(as_parts.values())) > 1 and not others and not named:
        raise DatasetError(
            f"dataset folder {root}: {_listed(tops)} look like parts but hold no class folders; sort their images into "
            f"a sub-folder per class, or, if they are classes, give --classes {','.join(tops)}"
        )
    return bool(nested)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:4]) + (" ..." if len(names) > 4 else "")


def _as_given(root: Path, folders: list[str], given: ClassList) -> tuple[list[str], dict[str, int]]:
    """The class names as the user gives them, and the place of each class folder among them."""
    place = {normalize_name(name): index for index, name in enumerate(given.names)}
    strange = next((folder for folder in folders if normalize_name(folder) not in place), None)
    if strange is not None:
        raise DatasetError(f"dataset folder {root}: class folder {strange!r} is not in {given.source}; add it there")
    return given.names, {folder: place[normalize_name(folder)] for folder in folders}


def _load_pool_folder(folder: Path, found: Listing, classes: ClassList) -> Dataset:
    """Images anywhere below a folder, nothing known about their classes: all are pool."""
    name = Path(os.path.abspath(folder)).name or "folder"
    ids = ["/".join(parts) for parts in found.files]
    notes = found.notes()
    parts = sorted(
        {top for parts in found.files if len(parts) > 1 and part_of_folder(top := parts[0]) in ("val", "test")}
    )
    if parts:
        notes.append(f"the images of {_listed(parts)} are in the pool: they are in no class folders, so have no labels")
    known = descriptions(classes)
    return make_dataset(
        name, classes.names, ids, ["pool"] * len(ids), None, root=folder, descriptions=known, notes=notes
    )


def _sorted_by_class(folder: Path, files: Sequence[Parts], classes: ClassList) -> bool:
    """Whether the sub-folders are the classes given: all of them, or none.

    Raises:
        DatasetError: only some of them are.
    """
    names = {normalize_name(name) for name in classes.names}
    tops = sorted({parts[0] for parts in files if len(parts) > 1})
    strange = [top for top in tops if normalize_name(top) not in names]
    if tops and not strange:
        return True
    if len(strange) < len(tops):
        raise DatasetError(
            f"dataset folder {folder}: sub-folder {strange[0]!r} is no class of {classes.source}, others are; rename "
            "it, or move the images together if their labels are not known"
        )
    return False
