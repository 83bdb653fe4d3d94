"""Encoding images: decode in threads, batches of one fixed shape, features in half precision.

Imports no torch itself; the image tower that it is given does.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from psp_ray.clip.preprocess import Preprocessing
from psp_ray.core.records import Float16Array, Float64Array
from psp_ray.data.images import (
    HASH_BYTES,
    ImageError,
    UInt8Array,
    ViewSettings,
    augmented_views,
    center_view,
    content_hash,
    decode,
    read_file,
    view_noise,
)
from psp_ray.features.segments import HashArray

SMALL_IMAGE = 128 * 128
"""Pixels up to which a batch of 32 still fits a CPU's caches; above it is 16. Measured: `benchmarks/featurize.py`."""
NOT_FINITE = "the model gave no finite feature"
TASK_SCHEMA = pa.schema(
    [
        ("content_hash", pa.binary(HASH_BYTES)),
        ("path", pa.string()),
        ("image", pa.binary()),
        ("center", pa.bool_()),
        ("views", pa.bool_()),
    ]
)


class ImageTower(Protocol):
    """What encodes a batch; `psp_ray.clip` has the real one."""

    def encode(self, images: Any) -> Any:
        """(n, 3, height, width) uint8, a numpy array, to (n, d) floats (a CPU tensor or an array)."""
        ...


@dataclass(frozen=True)
class ChunkTask:
    """A piece of work: images (`TASK_SCHEMA`), which of them want a center feature and which want views."""

    index: int
    images: pa.Table
    views: ViewSettings | None = None
    round: int = 0
    preprocessing: str = ""
    """What the cache's key says the tower sees, as `str(Preprocessing)`; empty: whatever the encoder does."""


@dataclass(frozen=True)
class ChunkResult:
    """Features (a, d) and views (b, L * d) float16 with their content hashes, and the images that could not be had."""

    index: int
    feature_hashes: HashArray
    features: Float16Array
    view_hashes: HashArray
    views: Float16Array
    broken: list[list[str]]
    """[content hash in hex, reason] of each broken image."""
    encodings: int
    """Passes through the tower: centers plus views, padding not counted."""
    asked: int
    """The encodings that the task asked for, those of broken images included."""
    seconds: float
    """Time of the work, the tower's loading left out."""


def cpu_batch_size(preprocessing: Preprocessing) -> int:
    """The batch that a CPU gets through fastest: 32 small images or 16 larger ones."""
    height, width = preprocessing.size
    return 32 if height * width <= SMALL_IMAGE else 16


class ChunkEncoder:
    """Encodes chunks; usable inline or as the heart of a Ray worker.

    Args:
        tower_factory: builds the image tower; called when the first image has been decoded.
        preprocessing: what the tower wants to see.
        batch_size: images per pass, always exactly this many (the last batch is padded with black), so that the
            numbers don't depend on how many images came along. Default: `cpu_batch_size`; a GPU wants 128 or more.
        decode_threads: threads that read and decode beside the tower; default: one a CPU, at most 4.
    """

    def __init__(
        self,
        tower_factory: Callable[[], ImageTower],
        preprocessing: Preprocessing,
        *,
        batch_size: int | None = None,
        decode_threads: int | None = None,
    ):
        self._factory = tower_factory
        self._tower: ImageTower | None = None
        self._loading = 0.0
        self.preprocessing = preprocessing
        self.batch_size = batch_size or cpu_batch_size(preprocessing)
        self.decode_threads = decode_threads or min(os.cpu_count() or 1, 4)

    def __call__(self, task: ChunkTask) -> ChunkResult:
        return self.encode_chunk(task)

    def encode_chunk(self, task: ChunkTask) -> ChunkResult:
        """Encode one chunk. Center crops and views go through the tower in batches of their own, in task order.

        Memory: decoded images of two batches at most, (1 + L) * height * width * 3 bytes each.

        Raises:
            RuntimeError: the task wants another preprocessing; its features would lie under a wrong key.
        """
        if task.preprocessing and task.preprocessing != str(self.preprocessing):
            raise RuntimeError(f"encoder and cache disagree: {self.preprocessing} here, {task.preprocessing} there")
        start = time.perf_counter()
        self._loading = 0.0
        centers, views = _Rows(self, HASH_BYTES), _Rows(self, HASH_BYTES)
        broken: list[list[str]] = []
        for digest, pixels in self._decoded(task):
            if isinstance(pixels, ImageError):
                broken.append([digest.hex(), str(pixels)])
                continue
            if pixels[0] is not None:
                centers.add(digest, pixels[0][None])
            if pixels[1] is not None:
                views.add(digest, pixels[1])
        feature_hashes, features, bad = centers.finish()
        view_hashes, view_features, bad_views = views.finish()
        broken += [[digest.hex(), NOT_FINITE] for digest in sorted(bad | bad_views)]
        return ChunkResult(
            index=task.index,
            feature_hashes=feature_hashes,
            features=features,
            view_hashes=view_hashes,
            views=view_features,
            broken=broken,
            encodings=centers.encoded + views.encoded,
            asked=_count(task.images["center"])
            + (0 if task.views is None else task.views.count * _count(task.images["views"])),
            seconds=time.perf_counter() - start - self._loading,
        )

    def run_tower(self, pixels: UInt8Array) -> Float16Array:
        """One batch (batch_size, height, width, 3) uint8 to L2-normalized features (batch_size, d) float16."""
        if self._tower is None:
            start = time.perf_counter()
            self._tower = self._factory()
            self._loading += time.perf_counter() - start
        out = np.asarray(self._tower.encode(pixels.transpose(0, 3, 1, 2)), np.float32)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            unit: Float16Array = (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float16)
        return unit

    def _decoded(self, task: ChunkTask) -> Iterator[tuple[bytes, Any]]:
        """(hash, (center or None, views or None) or ImageError) in task order, a batch ahead of the tower."""
        rows = task.images.to_pylist()
        draws = None
        if task.views is not None and rows:
            hashes = np.frombuffer(b"".join(row["content_hash"] for row in rows), np.uint8)
            draws = view_noise(hashes.reshape(-1, HASH_BYTES), task.views, task.round)

        def one(number: int) -> tuple[bytes, Any]:
            row = rows[number]
            try:
                return row["content_hash"], self._pixels(row, task.views, None if draws is None else draws[number])
            except ImageError as error:
                return row["content_hash"], error

        with ThreadPoolExecutor(self.decode_threads, thread_name_prefix="decode") as executor:
            window: deque[Future[tuple[bytes, Any]]] = deque()
            try:
                for number in range(len(rows)):
                    window.append(executor.submit(one, number))
                    if len(window) > self.batch_size:
                        yield window.popleft().result()
                while window:
                    yield window.popleft().result()
            finally:
                for future in window:
                    future.cancel()

    def _pixels(
        self, row: dict[str, Any], views: ViewSettings | None, draws: Float64Array | None
    ) -> tuple[UInt8Array | None, UInt8Array | None]:
        data = row["image"] if row["path"] is None else read_file(row["path"])
        if content_hash(data) != row["content_hash"]:
            raise ImageError("the file changed while it was being read")
        image = decode(data)
        center = center_view(image, self.preprocessing) if row["center"] else None
        seen = None
        if row["views"] and views is not None and draws is not None:
            seen = augmented_views(image, self.preprocessing, views, draws)
        return center, seen


def _count(flags: pa.ChunkedArray) -> int:
    return int(np.count_nonzero(flags.to_numpy()))


class _Rows:
    """Collects images into batches of the fixed shape and what comes out of the tower into rows per image."""

    def __init__(self, encoder: ChunkEncoder, hash_bytes: int):
        height, width = encoder.preprocessing.size
        self._encoder, self._hash_bytes = encoder, hash_bytes
        self._shape = (encoder.batch_size, height, width, 3)
        self._batch: UInt8Array | None = None
        self._filled = 0
        self._out: list[Float16Array] = []
        self._hashes: list[bytes] = []
        self._per_image = 1
        self.encoded = 0

    def add(self, digest: bytes, pixels: UInt8Array) -> None:
        """`pixels` (k, height, width, 3), the same k for every image."""
        self._hashes.append(digest)
        self._per_image = len(pixels)
        self.encoded += len(pixels)
        for picture in pixels:
            if self._batch is None:
                self._batch = np.zeros(self._shape, np.uint8)
            self._batch[self._filled] = picture
            self._filled += 1
            if self._filled == len(self._batch):
                self._flush()

    def _flush(self) -> None:
        assert self._batch is not None
        self._batch[self._filled :] = 0
        self._out.append(self._encoder.run_tower(self._batch)[: self._filled])
        self._filled = 0

    def finish(self) -> tuple[HashArray, Float16Array, set[bytes]]:
        """Hashes (k, 16), rows (k, per_image * d), and the hashes of images whose numbers are not finite."""
        if self._filled:
            self._flush()
        if not self._out:
            return np.zeros((0, self._hash_bytes), np.uint8), np.zeros((0, 0), np.float16), set()
        rows = np.concatenate(self._out).reshape(len(self._hashes), -1)
        fine = np.isfinite(rows).all(axis=1)
        bad = {self._hashes[row] for row in np.flatnonzero(~fine)}
        hashes = np.frombuffer(b"".join(self._hashes), np.uint8).reshape(-1, self._hash_bytes)
        return hashes[fine], rows[fine], bad


def encode_images(
    encoder: ChunkEncoder, images: Iterable[bytes], *, chunk_size: int = 256
) -> Iterator[tuple[int, Float16Array | ImageError]]:
    """Features of images that are in no cache (prediction): (place, feature (d,) or the reason why not), streaming."""
    chunk: list[bytes] = []
    start = 0
    for data in images:
        chunk.append(data)
        if len(chunk) == chunk_size:
            yield from _encode_images(encoder, chunk, start)
            start, chunk = start + len(chunk), []
    if chunk:
        yield from _encode_images(encoder, chunk, start)


def _encode_images(
    encoder: ChunkEncoder, images: list[bytes], start: int
) -> Iterator[tuple[int, Float16Array | ImageError]]:
    digests = [content_hash(data) for data in images]
    count = len(images)
    table = pa.table(
        {
            "content_hash": digests,
            "path": pa.nulls(count, pa.string()),
            "image": images,
            "center": [True] * count,
            "views": [False] * count,
        },
        schema=TASK_SCHEMA,
    )
    result = encoder.encode_chunk(ChunkTask(0, table))
    features = dict(zip((row.tobytes() for row in result.feature_hashes), result.features, strict=True))
    reasons = {bytes.fromhex(digest): reason for digest, reason in result.broken}
    for place, digest in enumerate(digests, start=start):
        yield place, features[digest] if digest in features else ImageError(reasons[digest])
