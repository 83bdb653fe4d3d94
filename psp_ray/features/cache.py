"""The content-addressed cache of frozen features: immutable Arrow segments, one folder per encoder. No torch here.

    CACHE/ENCODER/encoder.json            what the key stands for, for people
    CACHE/ENCODER/features/*.arrow        content_hash fixed binary[16], features fixed_size_list<halffloat>[d]
    CACHE/ENCODER/views-VIEWS/*.arrow     content_hash fixed binary[16], views fixed_size_list<halffloat>[L * d]

A segment is written aside and renamed, and never changed after: readers map it into memory, any number of writers
need no lock, and a killed run leaves whole segments and at most a temporary file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from psp_ray.clip.preprocess import Preprocessing
from psp_ray.core.files import make_folder, write_text
from psp_ray.core.names import halves
from psp_ray.core.ours import mark
from psp_ray.core.paths import local_path
from psp_ray.core.records import Float16Array, Int32Array, UInt64Array
from psp_ray.core.writing import writing
from psp_ray.data.images import ViewSettings
from psp_ray.features.segments import (
    HashArray,
    as_strings,
    checksum,
    open_segment,
    schema_of,
    segment_name,
    set_aside,
    stored_checksum,
    write_segment,
)

FORMAT_VERSION = 1
STALE_SECONDS = 86_400.0
LOOKED_UP = 1 << 20
"""Hashes that are looked up at a time."""
JOINED_BYTES = 64 << 20
"""Pieces of a stream are joined into segments of about this size."""


@dataclass(frozen=True)
class EncoderSpec:
    """What features depend on besides the image: weights, preprocessing (image size included), width, arithmetic."""

    weights_hash: str
    preprocessing: Preprocessing
    dim: int
    """Width of an embedding (d)."""
    precision: str = "fp32"
    """Arithmetic of the image tower: features of half precision are not those of full precision."""

    @property
    def key(self) -> str:
        """Name of the encoder's folder in the cache."""
        return _digest({"format": FORMAT_VERSION, **asdict(self)})


def views_key(views: ViewSettings) -> str:
    return _digest(asdict(views))


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def default_cache_folder() -> Path:
    """`PSP_RAY_CACHE`, else the user's cache folder (`XDG_CACHE_HOME` or `~/.cache`) with `psp-ray` in it."""
    chosen = os.environ.get("PSP_RAY_CACHE")
    if chosen:
        return local_path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "psp-ray"


@dataclass(frozen=True)
class FeatureCache:
    """The cache folder; stores inside it come by encoder and view settings."""

    folder: str

    @classmethod
    def open(cls, folder: str | os.PathLike[str] | None = None) -> FeatureCache:
        """Open or create; None means the default folder.

        Raises:
            OutputError: the folder can't be made or written to.
        """
        path = local_path(folder) if folder is not None else default_cache_folder()
        with writing(f"cache folder {path}", "set --cache or PSP_RAY_CACHE to another"):
            path.mkdir(parents=True, exist_ok=True)
            probe = path / f".probe-{uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
        mark(path)
        return cls(os.path.abspath(path))

    def encoder_folder(self, spec: EncoderSpec) -> Path:
        return Path(self.folder) / spec.key

    def features(self, spec: EncoderSpec) -> FeatureStore:
        """The store of center-crop features, rows of width d."""
        return FeatureStore(str(self.encoder_folder(spec) / "features"), "features", spec.dim)

    def views(self, spec: EncoderSpec, views: ViewSettings) -> FeatureStore:
        """The store of view features, rows of width L * d."""
        folder = self.encoder_folder(spec) / f"views-{views_key(views)}"
        return FeatureStore(str(folder), "views", views.count * spec.dim)

    def describe(self, spec: EncoderSpec, views: ViewSettings | None = None) -> None:
        """Leave `encoder.json` (and `views-*/views.json`) so that people can tell what a folder holds."""
        folder = self.encoder_folder(spec)
        describe_in(folder / "encoder.json", json.dumps(asdict(spec), indent=2) + "\n")
        if views is not None:
            name = f"views-{views_key(views)}"
            describe_in(folder / name / "views.json", json.dumps(asdict(views), indent=2) + "\n")

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free


@dataclass(frozen=True)
class _Index:
    """Rows of all segments, one behind the other, by the first half of their hashes: `keys` (n,) rising, `places` (n,)
    of the rows; 12 bytes a row, and a hash that is there twice is found where it came first."""

    keys: UInt64Array
    places: NDArray[np.uint32]

    @classmethod
    def of(cls, hashes: list[NDArray[Any]]) -> _Index:
        keys = np.concatenate([np.zeros(0, np.uint64), *(halves(part)[0] for part in hashes)])
        places = np.argsort(keys, kind="stable").astype(np.uint32)
        return cls(keys[places], places)


@dataclass
class FeatureStore:
    """Rows of float16 by content hash, in the segments of one folder. Pickles by path: each process maps for itself."""

    folder: str
    column: str
    width: int
    _names: list[str] = field(default_factory=list, init=False, repr=False)
    _rows: list[Float16Array] = field(default_factory=list, init=False, repr=False)
    _hashes: list[NDArray[Any]] = field(default_factory=list, init=False, repr=False)
    _checked: set[int] = field(default_factory=set, init=False, repr=False)
    _recent: list[tuple[HashArray, Float16Array]] = field(default_factory=list, init=False, repr=False)
    _index: _Index | None = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "column": self.column, "width": self.width}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def schema(self) -> pa.Schema:
        return schema_of(self.column, self.width)

    @property
    def n_segments(self) -> int:
        """Segments taken up so far."""
        return len(self._names)

    # -- reading -------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Take up segments that have appeared. A damaged one is set aside as `*.corrupt` and counts as absent.

        Raises:
            OutputError: a segment is there but the system can't open it now (rights, limits, network).
        """
        folder = Path(self.folder)
        known = set(self._names)
        try:
            present = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".arrow"))
        except FileNotFoundError:
            present = []
        for name in present:
            if name in known:
                continue
            opened = open_segment(folder / name, self.schema)
            if opened is None:
                set_aside(folder / name)
                continue
            self._names.append(name)
            self._hashes.append(opened[0])
            self._rows.append(opened[1])
            self._index = None

    def _lookup(self) -> _Index:
        if self._index is None:
            self._index = _Index.of(self._hashes)
        return self._index

    def forget_index(self) -> None:
        """Give back what `locate` looks things up in; it is made again when it is wanted."""
        self._index = None

    def locate(self, hashes: HashArray, *, verify: bool = False) -> tuple[Int32Array, Int32Array]:
        """(segment, row) of each hash of (n, 16), both -1 where it is absent.

        With `verify`, the checksum of every segment that is named is compared first (once per process); a segment
        that fails is set aside and its images count as absent.
        """
        if not self._names:
            self.refresh()
        while True:
            segment, row = (np.full(len(hashes), -1, np.int32) for _ in range(2))
            for at in range(0, len(hashes), LOOKED_UP):
                span = slice(at, at + LOOKED_UP)
                segment[span], row[span] = self._located(hashes[span])
            if not verify or self._verified(np.unique(segment[segment >= 0])):
                return segment, row

    def _located(self, hashes: HashArray) -> tuple[Int32Array, Int32Array]:
        index = self._lookup()
        starts = np.cumsum([0, *(len(part) for part in self._hashes)])
        segment, row = (np.full(len(hashes), -1, np.int32) for _ in range(2))
        wanted = as_strings(hashes)
        keys = halves(hashes)[0]
        place = np.searchsorted(index.keys, keys)
        left = np.arange(len(hashes))
        while len(left):  # more than once only where first halves of different hashes are the same
            left = left[place[left] < len(index.keys)]
            left = left[index.keys[place[left]] == keys[left]]
            at = index.places[place[left]].astype(np.int64)
            segments = np.searchsorted(starts, at, side="right") - 1
            rows = at - starts[segments]
            same = np.zeros(len(left), bool)
            for number in np.unique(segments).tolist():
                here = segments == number
                same[here] = self._hashes[number][rows[here]] == wanted[left[here]]
            segment[left[same]], row[left[same]] = segments[same], rows[same]
            left = left[~same]
            place[left] += 1
        return segment, row

    def contains(self, hashes: HashArray, *, verify: bool = False) -> NDArray[np.bool_]:
        return self.locate(hashes, verify=verify)[0] >= 0

    def _verified(self, segments: Int32Array) -> bool:
        bad = []
        for segment in segments:
            if int(segment) in self._checked:
                continue
            path = Path(self.folder) / self._names[segment]
            if stored_checksum(path) == checksum(self._hashes[segment], self._rows[segment]):
                self._checked.add(int(segment))
            else:
                bad.append(path)
        for path in bad:
            set_aside(path)
        if bad:  # positions of segments shift: start afresh
            self.__setstate__(self.__getstate__())
            self.refresh()
        return not bad

    def gather(self, segment: Int32Array, row: Int32Array) -> Float16Array:
        """Rows (k, width) at places that `locate` gave."""
        out = np.empty((len(segment), self.width), np.float16)
        order = np.argsort(segment, kind="stable")
        bounds = np.flatnonzero(np.diff(segment[order], prepend=-2, append=-2))
        for start, stop in pairwise(bounds):
            here = order[start:stop]
            out[here] = self._rows[segment[here[0]]][row[here]]
        return out

    # -- writing -------------------------------------------------------------------------------------------------

    def write(self, hashes: HashArray, vectors: Float16Array) -> None:
        """Add a segment of vectors (k, width) for hashes (k, 16). The same images make the same file name.

        Raises:
            OutputError: the disk is full or the folder can't be written.
        """
        if len(hashes):
            write_segment(Path(self.folder), self.schema, hashes, vectors)

    def append(self, hashes: HashArray, vectors: Float16Array) -> None:
        """As `write`, for a stream of small pieces: each is durable at once, and pieces are joined by and by.

        A process may map 65,530 files, which pools of millions would exceed in pieces of a hundred images. The pieces
        of a joined segment go when it is on disk; readers that have them mapped keep them.
        """
        if not len(hashes):
            return
        self.write(hashes, vectors)
        self._recent.append((hashes, vectors))
        if sum(piece.nbytes for _, piece in self._recent) < JOINED_BYTES:
            return
        pieces, self._recent[:] = list(self._recent), []
        if len(pieces) > 1:
            self.write(np.concatenate([h for h, _ in pieces]), np.concatenate([v for _, v in pieces]))
            for piece, _ in pieces:
                with suppress(OSError):  # another process was quicker
                    os.unlink(Path(self.folder) / f"{segment_name(piece)}.arrow")

    def remove_stale_files(self) -> None:
        """Delete temporary files that a killed run left more than a day ago."""
        try:
            entries = [entry for entry in os.scandir(self.folder) if entry.name.endswith(".tmp")]
        except FileNotFoundError:
            return
        for entry in entries:
            try:
                if time.time() - entry.stat().st_mtime > STALE_SECONDS:
                    os.unlink(entry.path)
            except OSError:
                continue  # another process was quicker


def describe_in(path: Path, text: str) -> None:
    """Written aside and renamed, with a name of its own: several experiments may describe one folder at once."""
    make_folder(path.parent)
    write_text(path, text)
