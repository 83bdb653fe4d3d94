"""Images listed in a CSV or Parquet file; see `psp_ray.data.manifest`."""

from __future__ import annotations

import posixpath

from psp_ray.data.dataset import Dataset
from psp_ray.data.manifest import dataset_of, read_manifest
from psp_ray.data.registry import Request


def load_listed(request: Request) -> Dataset:
    """The data set of a manifest file, local or by URL.

    Raises:
        DatasetError: as `read_manifest` and `dataset_of`.
    """
    name = posixpath.basename(request.name.replace("\\", "/")).rpartition(".")[0] or "manifest"
    return dataset_of(name, read_manifest(request.name), request.classes, has_test=request.has_test)
