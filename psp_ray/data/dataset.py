"""A data set: its manifest (what there is), its classes, and apart from both the ground truth."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from psp_ray.core.errors import DatasetError
from psp_ray.core.records import Int32Array
from psp_ray.core.words import counted, is_utf8
from psp_ray.data.embedded.source import EmbeddingSource

PARTS = ("pool", "val", "test")
TEST_PREFIX = "test/"
"""What the names of test images from elsewhere (`--test`) begin with."""
DEFAULT_TEMPLATES = ["a photo of a {}."]
MANIFEST_SCHEMA = pa.schema(
    [("sample_id", pa.string()), ("path", pa.string()), ("image", pa.binary()), ("split", pa.string())]
)
GROUND_TRUTH_SCHEMA = pa.schema([("sample_id", pa.string()), ("label", pa.int32())])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and class names.

    `manifest` has one row per image, sorted by `sample_id`: `sample_id` string, `path` string (absolute) or null,
    `image` binary (the bytes of the image file) or null, `split` in pool, val, test. `ground_truth` (`sample_id`,
    `label` int32, an index into `classes`) is for the oracle and the evaluator only, and None where nobody knows it.
    """

    name: str
    classes: list[str]
    manifest: pa.Table
    ground_truth: pa.Table | None
    templates: list[str] = field(default_factory=lambda: list(DEFAULT_TEMPLATES))
    root: str | None = None
    """The data set's folder; the sample_id of an image file is its path relative to it."""
    mirror: bool = True
    """Whether a mirrored image still shows its class (false for digits and other writing)."""
    descriptions: dict[str, list[str]] = field(default_factory=dict)
    """Phrases by class name, where the user gave some with the class names."""
    embeddings: EmbeddingSource | None = None
    """Where the rows' embeddings lie, in a data set that brings them in place of images."""
    notes: tuple[str, ...] = ()
    """Lines for people: what was left out of what was given, and why."""
    former_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What a class was called before, the newest first; files of that time call it so. Only of renamed classes."""
    class_vectors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Embeddings of classes that were added with one."""

    @property
    def prompt_names(self) -> list[str]:
        """Class names as they are put into a prompt: underscores are spaces."""
        return [name.replace("_", " ") for name in self.classes]

    @property
    def former(self) -> dict[str, int]:
        """Index of the class that a name meant before; names that a class bears now are not in it."""
        index = {name: place for place, name in enumerate(self.classes)}
        pairs = [(old, index[name]) for name, names in self.former_names.items() for old in names]
        return {old: place for old, place in reversed(pairs) if old not in index}

    def part(self, split: str) -> pa.Table:
        """The rows of one part (`pool`, `val`, `test`) in manifest order."""
        if split not in PARTS:
            raise ValueError(f"no part {split!r}; parts are {', '.join(PARTS)}")
        mine = pc.equal(self.manifest["split"], split)
        return self.manifest if bool(pc.all(mine).as_py()) else self.manifest.filter(mine)

    def count(self, split: str) -> int:
        """How many rows a part has."""
        return int(pc.sum(pc.equal(self.manifest["split"], split)).as_py() or 0)

    @property
    def pool(self) -> pa.Table:
        return self.part("pool")

    @property
    def val(self) -> pa.Table:
        return self.part("val")

    @property
    def test(self) -> pa.Table:
        return self.part("test")

    def labels(self, split: str) -> Int32Array:
        """True labels (n,) int32 of one part in manifest order. For the oracle and the evaluator.

        Raises:
            DatasetError: the data set comes without ground truth, or lacks it for an image of this part.
        """
        if self.ground_truth is None:
            raise DatasetError(f"{self.name}: there is no ground truth; label with another oracle")
        labels = self.known_labels(split)
        unknown = int((labels < 0).sum())
        if unknown:
            raise DatasetError(
                f"{self.name}: "
                f"{counted(unknown, f'image of {split} has', f'images of {split} have')} no true label; add it"
            )
        return labels

    def known_labels(self, split: str) -> Int32Array:
        """True labels (n,) int32 of one part in manifest order, -1 where nobody knows."""
        mine = pc.equal(self.manifest["split"], split).to_numpy()
        if self.ground_truth is None:
            return np.full(int(mine.sum()), -1, np.int32)
        ids, known = self.manifest["sample_id"], self.ground_truth["sample_id"]
        truth = self.ground_truth["label"].to_numpy().astype(np.int32, copy=False)
        if len(ids) == len(known) and ids.equals(known):  # no lookup of millions of names
            every: Int32Array = truth[mine]
            return every
        found = pc.fill_null(pc.index_in(ids.filter(pa.array(mine)), value_set=known), -1).to_numpy()
        labels: Int32Array = np.append(truth, np.int32(-1))[found]
        return labels

    def without(self, sample_ids: Iterable[str] | pa.Array) -> Dataset:
        """The data set with some images left out (broken ones, say)."""
        gone = sample_ids if isinstance(sample_ids, pa.Array) else pa.array(sorted(set(sample_ids)), pa.string())
        if not len(gone):
            return self

        def keep(table: pa.Table) -> pa.Table:
            return table.filter(pc.invert(pc.is_in(table["sample_id"], value_set=gone)))

        truth = None if self.ground_truth is None else keep(self.ground_truth)
        return replace(self, manifest=keep(self.manifest), ground_truth=truth)


def make_dataset(
    name: str,
    classes: Sequence[str],
    sample_ids: Sequence[str],
    splits: Sequence[str],
    labels: Sequence[int | None] | None,
    *,
    root: Path | None = None,
    images: Sequence[bytes | None] | None = None,
    paths: Sequence[str | None] | None = None,
    templates: Sequence[str] | None = None,
    mirror: bool = True,
    descriptions: dict[str, list[str]] | None = None,
    with_pool: bool = True,
    notes: Sequence[str] = (),
) -> Dataset:
    """Sort by sample_id, check and assemble. Without `images` and `paths` the sample_ids are files relative to `root`.

    `labels` are None where nobody knows them.

    Raises:
        DatasetError: fewer than two classes, a class name twice, a sample_id twice, no pool image (`with_pool`).
    """
    check_classes(name, classes)
    order = sorted(range(len(sample_ids)), key=lambda i: sample_ids[i])
    ids = [sample_ids[i] for i in order]
    prefix = "" if root is None else os.path.abspath(root)
    if paths is not None:
        places: list[str | None] | None = [paths[i] for i in order]
    else:
        places = None if images is not None else [os.path.join(prefix, *i.split("/")) for i in ids]
    manifest = _manifest(
        name, ids, [splits[i] for i in order], places, None if images is None else [images[i] for i in order]
    )
    if with_pool and "pool" not in set(splits):
        raise DatasetError(f"{name}: no image to choose from (the train part is empty); add training images")
    truth = None
    if labels is not None and any(label is not None for label in labels):
        columns = {"sample_id": manifest["sample_id"], "label": pa.array([labels[i] for i in order], pa.int32())}
        truth = pa.table(columns, schema=GROUND_TRUTH_SCHEMA).drop_null()
    return Dataset(
        name=name,
        classes=list(classes),
        manifest=manifest,
        ground_truth=truth,
        templates=list(templates or DEFAULT_TEMPLATES),
        root=None if root is None else prefix,
        mirror=mirror,
        descriptions=dict(descriptions or {}),
        notes=tuple(notes),
    )


def check_classes(name: str, classes: Sequence[str]) -> None:
    """Raise a DatasetError for fewer than two classes, or a name twice."""
    if len(classes) < 2:
        only = f"only one class ({classes[0]!r})" if classes else "no class"
        raise DatasetError(f"{name}: {only}; at least two are needed, one sub-folder per class")
    twice = _first_repeated(classes)
    if twice is not None:
        raise DatasetError(f"{name}: class name {twice!r} occurs twice; give the classes distinct names")


def _manifest(
    name: str,
    ids: list[str],
    splits: list[str],
    paths: Sequence[str | None] | None,
    images: Sequence[bytes | None] | None,
) -> pa.Table:
    """The manifest of sorted sample_ids. Raises DatasetError for one that is there twice, or is no text."""
    twice = next((a for a, b in pairwise(ids) if a == b), None)
    if twice is not None:
        raise DatasetError(f"{name}: image {twice!r} is listed twice; keep one entry for each image")
    try:
        id_column = pa.array(ids, pa.string())
    except UnicodeEncodeError:
        bad = next(i for i in ids if not is_utf8(i))
        raise DatasetError(f"{name}: file name {bad!a} is not valid UTF-8; rename the file") from None
    try:
        path_column = pa.nulls(len(ids), pa.string()) if paths is None else pa.array(paths, pa.string())
    except UnicodeEncodeError:
        bad = next(path for path in paths or () if path is not None and not is_utf8(path))
        raise DatasetError(f"{name}: path {bad!a} is not valid UTF-8; rename the folder") from None
    columns = {
        "sample_id": id_column,
        "path": path_column,
        "image": pa.nulls(len(ids), pa.binary()) if images is None else pa.array(images, pa.binary()),
        "split": pa.array(splits, pa.string()),
    }
    return pa.table(columns, schema=MANIFEST_SCHEMA)


def _first_repeated(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
