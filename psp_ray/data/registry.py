"""Data sets by name. A new one is a new file in `psp_ray/data/adapters/`, or an entry point of another package.

An adapter is a function that takes a `Request` and gives a `Dataset`; see `adapters/digits.py`. Entry points are of the
group `psp_ray.data.adapters`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from psp_ray.core.registry import Registry
from psp_ray.data.classes import ClassList
from psp_ray.data.dataset import Dataset


@dataclass(frozen=True)
class Request:
    """What the user asked for: a name, folder or manifest, where named data sets live, a split file to go by, class
    names, and whether the test images come from elsewhere. `named`: those of `--class-embeddings`, for data that names
    no classes itself."""

    name: str
    data_root: Path | None = None
    split: Path | None = None
    classes: ClassList | None = None
    has_test: bool = False
    named: ClassList | None = None
    allow_remote: bool = False
    """Whether lists of images may name addresses."""


Adapter = Callable[[Request], Dataset]

DATASETS: Registry[Adapter] = Registry("data set", "psp_ray.data.adapters", option="--dataset")
register_dataset = DATASETS.register


def dataset_names() -> list[str]:
    """All registered names, sorted."""
    return DATASETS.names()
