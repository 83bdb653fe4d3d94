"""Data: adapters that list images and classes, decoding, featurizing once, and the cache of frozen features.

Importing this package loads pyarrow and numpy only. torch is loaded when something is encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.core.lazily import lazily

if TYPE_CHECKING:
    from psp_ray.data.dataset import Dataset
    from psp_ray.data.load import load_dataset
    from psp_ray.data.registry import dataset_names, register_dataset

__all__ = ["Dataset", "dataset_names", "load_dataset", "register_dataset"]

__getattr__ = lazily(
    __name__,
    {
        "Dataset": "dataset",
        "load_dataset": "load",
        "dataset_names": "registry",
        "register_dataset": "registry",
    },
)
