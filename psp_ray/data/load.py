"""Finding and listing the data set that a user names."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from psp_ray.core.errors import DatasetError
from psp_ray.core.paths import exists, is_folder, local_path
from psp_ray.core.words import counted, did_you_mean
from psp_ray.data.adapters.embedded import load_embedded, with_test_rows
from psp_ray.data.adapters.folder import load_folder
from psp_ray.data.adapters.listed import load_listed
from psp_ray.data.classes import ClassList, read_classes
from psp_ray.data.coop import load_split_folder
from psp_ray.data.dataset import Dataset
from psp_ray.data.embedded.layouts import has_embeddings
from psp_ray.data.images import ImageError, check_header
from psp_ray.data.manifest import is_manifest
from psp_ray.data.own import excluding, with_test
from psp_ray.data.registry import DATASETS, Adapter, Request
from psp_ray.data.remote import require_local


def load_dataset(
    dataset: str,
    data_root: str | os.PathLike[str] | None = None,
    split: str | os.PathLike[str] | None = None,
    *,
    classes: str | None = None,
    test: str | None = None,
    exclude: str | None = None,
    named: ClassList | None = None,
    allow_remote: bool = False,
    arrange: Callable[[Dataset], Dataset] | None = None,
) -> Dataset:
    """Find and list a data set; reads file names and split files, and opens images until one proves readable.

    Args:
        dataset: the name of a registered data set, a folder, `FOLDER:SPLIT.json`, a CSV or Parquet manifest, or
            embeddings (see `psp_ray.data.adapters.embedded`).
        data_root: the folder that holds the folders of named data sets.
        split: a CoOp-format split file; with a named data set it takes the place of its own.
        classes: class names, or a file of them (see `psp_ray.data.classes`).
        test: labeled test images: a folder of class folders, or a manifest.
        exclude: a file that lists images to leave out.
        named: class names for data that names none itself (those of `--class-embeddings`).
        allow_remote: lists may name addresses (see `psp_ray.data.remote`).
        arrange: gives the classes the order and names that they have in a run, before other files are read by them.

    Raises:
        DatasetError: unknown name, missing or empty folder, one class only, no readable image, unusable split file,
            or what `psp_ray.data.own` says of the last two.
    """
    adapter, request = find_dataset(
        dataset, data_root, split, classes=classes, test=test, named=named, allow_remote=allow_remote
    )
    loaded = adapter(request)
    if arrange is not None:
        loaded = arrange(loaded)
    if test is not None:
        loaded = with_test(loaded, test) if loaded.embeddings is None else with_test_rows(loaded, test)
    if exclude is not None:
        loaded = excluding(loaded, exclude)
    loaded = _with_addresses(loaded, allow_remote)
    if loaded.embeddings is None:
        _require_readable(loaded)
    return loaded


def find_dataset(
    dataset: str,
    data_root: str | os.PathLike[str] | None = None,
    split: str | os.PathLike[str] | None = None,
    *,
    classes: str | None = None,
    test: str | None = None,
    named: ClassList | None = None,
    allow_remote: bool = False,
) -> tuple[Adapter, Request]:
    """Who lists a data set, and what is asked of it; arguments as for `load_dataset`. Nothing is listed yet.

    Raises:
        DatasetError: unknown name, missing folder, an address that is not allowed, or unusable class names.
    """
    folder, separator, tail = dataset.rpartition(":")
    if separator and folder and tail.lower().endswith(".json"):
        if split is not None:
            raise DatasetError(f"dataset {dataset!r} names a split file and so does split; give one of them")
        dataset, split = folder, tail
    request = Request(
        name=dataset,
        data_root=None if data_root is None else local_path(data_root),
        split=None if split is None else local_path(split),
        classes=None if classes is None else read_classes(classes),
        has_test=test is not None,
        named=named,
        allow_remote=allow_remote,
    )
    for option, given in (("--dataset", dataset), ("--test", test)):
        require_local(given or "", allow_remote, f"{option} {given}")
    return find_adapter(request), request


def _with_addresses(dataset: Dataset, allow_remote: bool) -> Dataset:
    """The data set, whose images may only lie elsewhere where that was asked for.

    Rows of embeddings are read without their images: those lose their addresses, which `--oracle file` would follow.
    """
    paths = dataset.manifest["path"]
    remote = pc.fill_null(pc.match_substring(paths, "://"), False)
    if allow_remote or not bool(pc.any(remote).as_py()):
        return dataset
    row = pc.index(remote, True).as_py()
    if dataset.embeddings is None:
        require_local(paths[row].as_py(), False, f"{dataset.name}: {dataset.manifest['sample_id'][row].as_py()}")
        return dataset  # of a form that nobody reads: it costs this image
    kept = pc.if_else(remote, pa.scalar(None, pa.string()), paths)
    manifest = dataset.manifest.set_column(1, "path", kept)
    note = (
        f"{counted(pc.sum(remote).as_py(), 'row has an image', 'rows have images')} at "
        "addresses, which are not shown without --allow-remote"
    )
    return replace(dataset, manifest=manifest, notes=(*dataset.notes, note))


def _require_readable(dataset: Dataset) -> None:
    """At least one pool image opens. Costs one look where all is well."""
    pool = dataset.pool
    reason = ""
    for path, image in zip(pool["path"], pool["image"], strict=True):
        try:
            check_header(path.as_py() if path.is_valid else image.as_py())
            return
        except ImageError as error:
            reason = reason or str(error)
    raise DatasetError(
        f"{dataset.name}: no readable image among {pool.num_rows} (the first: {reason}); "
        "give files that Pillow reads, such as JPEG or PNG"
    )


def find_adapter(request: Request) -> Adapter:
    """The adapter for a request: a registered name wins over a folder of that name (write `./name` for the folder).

    Raises:
        DatasetError: neither a known name nor a folder or manifest; class names for a data set that has its own.
        ConfigError: the file of a data set of that name can't be imported.
    """
    name = request.name
    if request.classes is not None and (name in DATASETS or request.split is not None):
        raise DatasetError(f"dataset {name!r} brings its own class names; drop --classes")
    if name in DATASETS:
        return DATASETS.find(name)
    if exists(name) and has_embeddings(name):
        return load_embedded
    if is_manifest(name):
        return load_listed
    if is_folder(name):
        return load_split_folder if request.split is not None else load_folder
    if exists(name):
        raise DatasetError(
            f"dataset {name!r} is a file of another kind; give a folder, or a .csv, .parquet, .arrow or .npz file"
        )
    if "/" in name or "\\" in name or name.startswith((".", "~", "file:")):
        raise DatasetError(f"dataset folder {name!r} does not exist; check the path")
    if any(broken.name == name for broken in DATASETS.broken):
        return DATASETS.find(name)
    raise DatasetError(
        f"dataset {name!r} is neither a known data set nor a folder{did_you_mean(name, DATASETS.names())}; "
        f"known: {', '.join(DATASETS.names())}"
    )
