"""What the columns of users' tables are called, and what stands in them."""

from __future__ import annotations

import json
import os
import posixpath
from typing import Any

import pyarrow as pa

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
}


def locate(place: str, base: str) -> str:
    """An absolute path or URL of a path in a table that lies in the folder `base`."""
    if is_url(place):
        return place
    if is_url(base):
        return posixpath.join(base, place.replace("\\", "/"))
    return os.path.normpath(os.path.join(base, os.path.expanduser(place)))


def class_label_names(schema: pa.Schema, label: str | None) -> list[str] | None:
    """Class names of a `ClassLabel` feature, from the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names: Any = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) and names else None
