"""Where a pool's frozen features lie: small enough to be sent anywhere, and opened there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psp_ray.core.errors import OutputError
from psp_ray.core.files import make_folder, map_tensors, write_large_tensors
from psp_ray.core.records import StateDict, UInt64Array
from psp_ray.features.cache import FeatureStore
from psp_ray.features.pool import CachedPool
from psp_ray.features.segments import HashArray
from psp_ray.storage.remote import Storage


@dataclass(frozen=True)
class PoolSource:
    """Where cached features lie, small enough to send anywhere.

    `manifest` is a safetensors file in the cache, named by its content, with the `hashes` (n, 16) uint8 and the noise
    `keys` (n,) uint64 of the samples in manifest order.
    """

    features_folder: str
    views_folder: str | None
    dim: int
    n_views: int
    manifest: str
    cache: str = ""
    storage: str | None = None
    """Where a node that lacks files of the cache fetches them; None: every node sees the cache folder."""

    @classmethod
    def of(cls, pool: CachedPool, cache_folder: str, storage: str | None = None) -> PoolSource:
        """Write the pool's manifest file, unless it is there already; with `storage`, put all its files there too."""
        digest = _digest(pool.hashes, pool.keys)
        path = Path(cache_folder) / "pools" / f"{digest}.safetensors"
        if _read(path) is None:
            make_folder(path.parent)
            write_large_tensors(path, {"hashes": pool.hashes, "keys": pool.keys})
        views = pool.views.folder if pool.views is not None else None
        source = cls(pool.features.folder, views, pool.dim, pool.n_views, str(path), cache_folder, storage)
        if storage is not None:
            place = Storage(storage)
            place.push(path, source._stored(str(path)))
            for folder in source._folders():
                place.push_new(Path(folder), source._stored(folder))
        return source

    def _folders(self) -> list[str]:
        return [self.features_folder] + ([self.views_folder] if self.views_folder is not None else [])

    def _stored(self, path: str) -> str:
        return f"cache/{Path(path).relative_to(self.cache).as_posix()}"

    def open(self) -> CachedPool:
        """The pool, memory-mapped.

        Raises:
            OutputError: this machine doesn't see the cache folder.
        """
        arrays = _read(Path(self.manifest))
        if self.storage is not None:
            place = Storage(self.storage)
            if arrays is None:
                place.pull(self._stored(self.manifest), Path(self.manifest))
                arrays = _read(Path(self.manifest))
            for folder in self._folders():
                place.pull_new(self._stored(folder), Path(folder))
        if not Path(self.manifest).exists():
            raise OutputError(
                f"feature cache {self.manifest} is not there; every node must see the --cache folder, or give --storage"
            )
        if arrays is None:
            raise OutputError(f"feature cache {self.manifest}: is damaged; remove it and run the command again")
        views = None
        if self.views_folder is not None:
            views = FeatureStore(self.views_folder, "views", self.n_views * self.dim)
        features = FeatureStore(self.features_folder, "features", self.dim)
        return CachedPool(features, arrays["hashes"], arrays["keys"], views)


def _digest(hashes: HashArray, keys: UInt64Array) -> str:
    digest = hashlib.blake2b(np.ascontiguousarray(hashes).data, digest_size=12)
    digest.update(np.ascontiguousarray(keys).data)
    return digest.hexdigest()


def _read(path: Path) -> StateDict | None:
    """The manifest's arrays; None where there is no such file, or its content is not what its name says."""
    try:
        arrays = map_tensors(path)
        whole = _digest(arrays["hashes"], arrays["keys"]) == path.stem
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return arrays if whole else None
