"""A folder of images: a sub-folder for each class, or train, val and test folders that hold such sub-folders; with
`--classes` also plain images, and Parquet files with image bytes."""

from __future__ import annotations

import os
from pathlib import Path

from psp_ray.core.errors import DatasetError
from psp_ray.core.words import normalize_name
from psp_ray.data.classes import ClassList
from psp_ray.data.dataset import Dataset, make_dataset
from psp_ray.data.listing import image_files
from psp_ray.data.manifest import descriptions, load_parquet_folder, parquet_files
from psp_ray.data.parts import stratified_parts
from psp_ray.data.registry import Request

PART_FOLDERS = {"train": "pool", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def load_folder(request: Request) -> Dataset:
    """List a folder of class folders.

    `FOLDER/CLASS/...` gets fixed stratified parts (70 % pool, 10 % val, 20 % test of each class, by a hash of the
    file's name). `FOLDER/train/CLASS/...`, `FOLDER/val/CLASS/...`, `FOLDER/test/CLASS/...` are taken as they are; a
    part without a folder is empty. Images may lie deeper inside a class folder. Names with a dot in front are skipped.
    Where class names are given and no sub-folder is called so, all images are pool without labels. A folder without
    images but with Parquet files is read as `datasets` writes them.

    Raises:
        DatasetError: no images, or fewer than two classes.
    """
    root = Path(request.name).expanduser()
    name = Path(os.path.abspath(root)).name or "folder"
    files = image_files(root)
    if not files and parquet_files(root):
        return load_parquet_folder(root, request.classes, has_test=request.has_test)
    if request.classes is not None and not _has_parts(files) and not _sorted_by_class(root, files, request.classes):
        return _load_pool_folder(root, files, request.classes)
    if not files:
        if any(root.iterdir()):
            raise DatasetError(f"dataset folder {root} holds no image file; give a sub-folder of images per class")
        raise DatasetError(f"dataset folder {root} is empty; give a sub-folder of images per class")
    has_parts = _has_parts(files)
    split = [parts for parts in files if len(parts) >= 3 and parts[0] in PART_FOLDERS]
    kept = split if has_parts else [parts for parts in files if len(parts) >= 2]
    depth = 1 if has_parts else 0
    classes = sorted({parts[depth] for parts in kept})
    if not kept:
        raise DatasetError(
            f"dataset folder {root} holds {len(files)} images but no class folder; "
            "sort them into a sub-folder per class, or name the classes with --classes"
        )
    if len(classes) == 1:
        inner = {parts[depth + 1] for parts in kept if len(parts) > depth + 2}
        hint = f", or give {root / classes[0]}" if len(inner) > 1 and not has_parts else ""
        raise DatasetError(
            f"dataset folder {root} holds only one class ({classes[0]!r}); give a sub-folder for each class{hint}"
        )
    place = {name: index for index, name in enumerate(classes)}
    if request.classes is not None:
        classes, place = _as_given(root, classes, request.classes)
    ids = ["/".join(parts) for parts in kept]
    labels = [place[parts[depth]] for parts in kept]
    if has_parts:
        splits = [PART_FOLDERS[parts[0]] for parts in kept]
    else:
        splits = stratified_parts(ids, labels, val=0.1, test=0.0 if request.has_test else 0.2)
    return make_dataset(name, classes, ids, splits, labels, root=root, descriptions=descriptions(request.classes))


def _has_parts(files: list[tuple[str, ...]]) -> bool:
    """Whether the folders on top are train, val and test, with class folders inside."""
    return any(parts[0] == "train" and len(parts) >= 3 for parts in files) and all(
        parts[0] in PART_FOLDERS for parts in files if len(parts) >= 2
    )


def _as_given(root: Path, folders: list[str], given: ClassList) -> tuple[list[str], dict[str, int]]:
    """The class names as the user gives them, and the place of each class folder among them."""
    place = {normalize_name(name): index for index, name in enumerate(given.names)}
    strange = next((folder for folder in folders if normalize_name(folder) not in place), None)
    if strange is not None:
        raise DatasetError(f"dataset folder {root}: class folder {strange!r} is not in {given.source}; add it there")
    return given.names, {folder: place[normalize_name(folder)] for folder in folders}


def _load_pool_folder(folder: Path, files: list[tuple[str, ...]], classes: ClassList) -> Dataset:
    """Images anywhere below a folder, nothing known about their classes: all are pool.

    Raises:
        DatasetError: no image; or sub-folders of which only some are classes.
    """
    if not files:
        raise DatasetError(f"dataset folder {folder} holds no image file; give a folder of images")
    name = Path(os.path.abspath(folder)).name or "folder"
    ids = ["/".join(parts) for parts in files]
    known = descriptions(classes)
    return make_dataset(name, classes.names, ids, ["pool"] * len(ids), None, root=folder, descriptions=known)


def _sorted_by_class(folder: Path, files: list[tuple[str, ...]], classes: ClassList) -> bool:
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
