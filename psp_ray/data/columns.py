"""What the columns of users' tables are called, and what stands in them."""

from __future__ import annotations

import json
import os
import posixpath
import re
from typing import Any

import pyarrow as pa

from psp_ray.core.paths import is_file_address, local_text
from psp_ray.core.words import normalize_name
from psp_ray.data.images import is_url

PATH_COLUMNS = ("path", "file_name", "filename", "file", "image_path", "url")
IMAGE_COLUMNS = ("image", "img", "picture", "bytes")
LABEL_COLUMNS = ("label", "class", "category", "labels", "fine_label", "class_name")
SPLIT_COLUMNS = ("split", "part", "subset")
ID_COLUMNS = ("sample_id", "id")
PART_OF = {
    "": "pool",
    "train": "pool",
    "training": "pool",
    "pool": "pool",
    "unlabeled": "pool",
    "unlabelled": "pool",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_SET_WORDS = re.compile(r"[ ]?(set|images?|imgs?|data|dataset|split|folder|\d+)$")
"""What people write behind the name of a part: `train_images`, `Testset`, `val-2017`."""


def part_of_folder(name: str) -> str | None:
    """The part that a folder's name means (`Training`, `test_set`, `val2017`); None where it means none."""
    word = normalize_name(name)
    while word and word not in PART_OF:
        less = _SET_WORDS.sub("", word)
        if less == word:
            return None
        word = less
    return PART_OF[word] if word else None


def distinct(schema: pa.Schema) -> pa.Schema:
    """The schema, whose names are texts and distinct. Raises ValueError where they aren't."""
    if len(set(schema.names)) != len(schema.names):
        raise ValueError("two columns have one name")
    return schema


def whole(table: pa.Table) -> pa.Table:
    """The table, of texts in UTF-8 and offsets that lie inside. Raises ArrowInvalid, or ValueError as `distinct`."""
    distinct(table.schema)
    table.validate(full=True)
    return table


def locate(place: str, base: str) -> str:
    """An absolute path or URL of a path in a table that lies in the folder `base`. `file://` addresses are paths."""
    if not is_file_address(place):
        if is_url(place):
            return place
        if is_url(base):
            return posixpath.join(base, place.replace("\\", "/"))
    return os.path.normpath(os.path.join(base, local_text(place)))


def class_label_names(schema: pa.Schema, label: str | None) -> list[str] | None:
    """Class names of a `ClassLabel` feature, from the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names: Any = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) and names else None
