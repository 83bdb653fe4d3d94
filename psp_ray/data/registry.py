"""Data sets by name. A new one is a new file in `psp_ray/data/adapters/`, or an entry point of another package.

Entry points of the group `psp_ray.datasets` name an adapter: a function that takes a `Request` and gives a `Dataset`.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from psp_ray.core.errors import DatasetError

if TYPE_CHECKING:
    from psp_ray.data.classes import ClassList
    from psp_ray.data.dataset import Dataset

ENTRY_POINT_GROUP = "psp_ray.datasets"


@dataclass(frozen=True)
class Request:
    """What the user asked for: a name, folder or manifest, where named data sets live, a split file to go by, class
    names, and whether the test images come from elsewhere."""

    name: str
    data_root: Path | None = None
    split: Path | None = None
    classes: ClassList | None = None
    has_test: bool = False


Adapter = Callable[[Request], "Dataset"]

_adapters: dict[str, Adapter] = {}
_loaded: list[bool] = []


def register_dataset(name: str) -> Callable[[Adapter], Adapter]:
    """Decorator: make an adapter known by `name`. A name can be taken once."""

    def register(adapter: Adapter) -> Adapter:
        if name in _adapters:
            raise ValueError(f"data set {name!r} is registered already")
        _adapters[name] = adapter
        return adapter

    return register


def dataset_names() -> list[str]:
    """All registered names, sorted."""
    _load_all()
    return sorted(_adapters)


def find_adapter(request: Request) -> Adapter:
    """The adapter for a request: a registered name wins over a folder of that name (write `./name` for the folder).

    Raises:
        DatasetError: neither a known name nor a folder or manifest; class names for a data set that has its own.
    """
    from psp_ray.data.adapters.folder import load_folder
    from psp_ray.data.adapters.listed import load_listed
    from psp_ray.data.coop import load_split_folder
    from psp_ray.data.manifest import is_manifest

    _load_all()
    if request.classes is not None and (request.name in _adapters or request.split is not None):
        raise DatasetError(f"dataset {request.name!r} brings its own class names; drop --classes")
    if request.name in _adapters:
        return _adapters[request.name]
    if is_manifest(request.name):
        return load_listed
    folder = Path(request.name).expanduser()
    if folder.is_dir():
        return load_split_folder if request.split is not None else load_folder
    if folder.exists():
        raise DatasetError(f"dataset {request.name!r} is a file; give a folder, or a manifest: .csv or .parquet")
    if "/" in request.name or "\\" in request.name or request.name.startswith((".", "~")):
        raise DatasetError(f"dataset folder {request.name!r} does not exist; check the path")
    near = difflib.get_close_matches(request.name, _adapters, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise DatasetError(
        f"dataset {request.name!r} is neither a known data set nor a folder; {hint}"
        f"known: {', '.join(sorted(_adapters))}"
    )


def _load_all() -> None:
    if _loaded:
        return
    from psp_ray.data import adapters

    for module in pkgutil.iter_modules(adapters.__path__):
        import_module(f"{adapters.__name__}.{module.name}")
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name not in _adapters:
            _adapters[point.name] = point.load()
    _loaded.append(True)
