"""How large the feature cache is, and making room in it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psp_ray.core.errors import OutputError
from psp_ray.core.words import counted
from psp_ray.features.cache import FeatureCache

DAY = 86_400.0
GIB = 2**30


@dataclass(frozen=True)
class Entry:
    """One encoder's features, or one kind of its views: the unit that is kept or removed."""

    path: Path
    what: str
    images: int
    bytes: int
    used: float
    """When it was last read or written, seconds since the epoch."""


def entries(folder: str | os.PathLike[str] | None = None) -> list[Entry]:
    """What is in the cache, the longest unused first.

    Raises:
        OutputError: the folder can't be used.
    """
    root = Path(FeatureCache.open(folder).folder)
    found = []
    for encoder in sorted(path for path in root.iterdir() if (path / "encoder.json").is_file()):
        about = _json(encoder / "encoder.json")
        size = (about.get("preprocessing") or {}).get("size") or ["?"]
        name = f"{str(about.get('weights_hash', '?'))[:8]} at {size[0]} px, {about.get('precision', '?')}"
        for store in sorted(path for path in encoder.iterdir() if path.is_dir()):
            views = _json(store / "views.json")
            kind = f"{views.get('count', '?')} views" if store.name.startswith("views-") else "features"
            found.append(_entry(store, f"{name}: {kind}"))
    return sorted(found, key=lambda entry: (entry.used, str(entry.path)))


def _entry(store: Path, what: str) -> Entry:
    import pyarrow as pa

    images = size = 0
    used = store.stat().st_mtime
    for file in store.iterdir():
        status = file.stat()
        size += status.st_size
        used = max(used, status.st_mtime, status.st_atime)
        if file.suffix == ".arrow":
            try:
                with pa.memory_map(str(file)) as source:
                    reader = pa.ipc.open_file(source)
                    images += sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
            except (pa.ArrowInvalid, OSError):
                continue  # damaged: its bytes count, its rows don't
    return Entry(store, what, images, size, used)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def show(found: list[Entry]) -> list[str]:
    """One line for each entry, and the sum."""
    now = time.time()
    lines = [
        f"{entry.bytes / 2**20:10.1f} MiB {entry.images:9,} images  used {(now - entry.used) / DAY:5.1f} days ago  "
        f"{entry.what}  {entry.path}"
        for entry in found
    ]
    total = sum(entry.bytes for entry in found)
    return [*lines, f"{total / 2**20:10.1f} MiB in {counted(len(found), 'part')}"]


def prune(
    folder: str | os.PathLike[str] | None = None,
    *,
    max_gib: float | None = None,
    older_than_days: float | None = None,
    dry_run: bool = False,
    keep: Collection[str] = (),
) -> list[str]:
    """Remove entries unused for `older_than_days`, then the longest unused until `max_gib` are left.

    Folders in `keep` stay. Returns a line for each removal, and one for what is left. A part that a run
    has mapped stays readable for that run until it ends.
    """
    found = entries(folder)
    total = sum(entry.bytes for entry in found)
    lines = []
    for entry in found:
        if str(entry.path) in keep:
            continue
        old = older_than_days is not None and time.time() - entry.used > older_than_days * DAY
        if not old and (max_gib is None or total <= max_gib * GIB):
            continue
        total -= entry.bytes
        lines.append(f"{'would remove' if dry_run else 'removed'} {entry.bytes / 2**20:.1f} MiB: {entry.what}")
        if not dry_run:
            shutil.rmtree(entry.path, ignore_errors=True)
    return [*lines, f"{total / 2**20:.1f} MiB left"]


def make_room(folder: str | os.PathLike[str], quota_gib: float, need: int, keep: Collection[str]) -> list[str]:
    """Remove what was not used for longest until `need` more bytes fit the quota; lines for what was removed.

    Raises:
        OutputError: with `keep`, the folders of the features at work, the quota is too small.
    """
    held = sum(entry.bytes for entry in entries(folder) if str(entry.path) in keep)
    if held + need > quota_gib * GIB:
        raise OutputError(
            f"--cache-gib {quota_gib:g}: this data set needs {(held + need) / GIB:.3g} GiB of {folder}; raise it, or "
            "use fewer --views or a --pool-limit"
        )
    return prune(folder, max_gib=quota_gib - need / GIB, keep=keep)[:-1]
