"""Featurizing once: what is missing in the cache is encoded, in fixed chunks, by whoever maps the tasks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from psp_ray.core.errors import DatasetError, ModelError, OutputError
from psp_ray.core.files import write_text
from psp_ray.core.names import Digests, Names
from psp_ray.core.noise import sample_keys
from psp_ray.core.tables import csv_text
from psp_ray.data.dataset import PARTS, Dataset
from psp_ray.data.images import HASH_BYTES, ViewSettings
from psp_ray.features.cache import EncoderSpec, FeatureCache, FeatureStore
from psp_ray.features.encoder import NOT_FINITE, TASK_SCHEMA, ChunkEncoder, ChunkResult, ChunkTask
from psp_ray.features.hashes import Hashes, hash_manifest
from psp_ray.features.mapped import mapped_array, mapped_table
from psp_ray.features.pool import CachedPool, SplitFeatures
from psp_ray.features.segments import HashArray

CHUNK_SIZE = 128
"""Images per task: the unit of resuming and of progress."""
FIRST_CHUNK = 16
"""Images of the first task."""

MapTasks = Callable[[Iterable[ChunkTask]], Iterable[ChunkResult]]
"""Does all tasks, in any order and place; each result is written as it comes."""
Looked = Callable[[int, int], None]
"""Told how many images of how many have been looked at."""


@dataclass(frozen=True)
class Progress:
    """How far featurizing is; counts are encodings (a pool image with L views counts 1 + L)."""

    done: int
    total: int
    images_per_second: float | None
    """Encodings per second so far; None before the first chunk."""
    eta_seconds: float | None


@dataclass(frozen=True)
class BrokenImage:
    """An image that was left out, and why."""

    sample_id: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """What featurizing would do. Counts are of distinct contents; `n_samples` counts rows, `n_copies` repeated ones."""

    n_samples: int
    n_images: int
    n_cached: int
    n_missing: int
    n_encodings: int
    """Passes through the image tower that are missing (views included)."""
    bytes_needed: int
    """Disk space for the missing features."""
    bytes_free: int
    n_copies: int = 0
    encodings_per_second: float | None = None
    """From a timed batch, where one was asked for."""
    work: _Work | None = field(default=None, repr=False, compare=False)
    """Spares `featurize` from looking again."""

    @property
    def seconds(self) -> float | None:
        """Estimated time of one worker, where the speed is known."""
        if not self.n_encodings:
            return 0.0
        return None if not self.encodings_per_second else self.n_encodings / self.encodings_per_second


@dataclass(frozen=True)
class FeaturizedDataset:
    """A data set without its broken images, and readers of its frozen features."""

    dataset: Dataset
    pool: CachedPool
    val: SplitFeatures
    test: SplitFeatures
    sample_ids: Sequence[str]
    """Pool sample_ids by position."""
    content_hashes: Sequence[str]
    """Pool content hashes by position, 32 hex digits."""
    broken: list[BrokenImage] = field(default_factory=list)
    n_encoded: int = 0
    """Encodings done now (0 where all was cached)."""
    seconds: float = 0.0


@dataclass(frozen=True)
class _Work:
    """Hashes and what each row still wants, in manifest order; a content is encoded at its first row only."""

    hashes: Hashes
    center: np.ndarray
    views: np.ndarray
    n_images: int
    n_cached: int

    @property
    def rows(self) -> np.ndarray:
        return np.flatnonzero(self.center | self.views)


def plan_featurize(
    dataset: Dataset,
    spec: EncoderSpec,
    cache: FeatureCache,
    views: ViewSettings | None = None,
    encoder: ChunkEncoder | None = None,
    looked: Looked | None = None,
) -> Plan:
    """What is cached and what encoding the rest takes. With `encoder`, one batch is timed (after one that warms up).

    `looked` is told (done, total) while the images' contents are looked at.
    """
    work = _find_work(dataset, spec, cache, views, looked)
    count = 0 if views is None else views.count
    n_center, n_views = int(work.center.sum()), int(work.views.sum())
    speed = None
    if encoder is not None and len(work.rows):
        speed = _time_batch(encoder, next(_tasks(dataset, spec, work, views, encoder.batch_size)))
    return Plan(
        n_samples=dataset.manifest.num_rows,
        n_images=work.n_images,
        n_cached=work.n_cached,
        n_missing=len(work.rows),
        n_encodings=n_center + n_views * count,
        bytes_needed=n_center * (2 * spec.dim + HASH_BYTES) + n_views * (2 * spec.dim * count + HASH_BYTES),
        bytes_free=cache.free_bytes,
        n_copies=dataset.manifest.num_rows - len(work.hashes.unreadable) - work.n_images,
        encodings_per_second=speed,
        work=work,
    )


def featurize(
    dataset: Dataset,
    spec: EncoderSpec,
    cache: FeatureCache,
    encoder_factory: Callable[[], ChunkEncoder],
    views: ViewSettings | None = None,
    *,
    plan: Plan | None = None,
    map_fn: MapTasks | None = None,
    progress: Callable[[Progress], None] | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> FeaturizedDataset:
    """Encode what the cache lacks and give readers over it.

    Pool images get a center feature and, where `views` is given, L view features; val and test images the center one.
    Chunks are `chunk_size` rows of the manifest, fixed; results are written one by one as they arrive, so an
    interrupted run loses the chunks under way and memory doesn't grow with the data set.

    Args:
        encoder_factory: builds the encoder in this process; not called where nothing is missing or `map_fn` is given.
        plan: what `plan_featurize` has just found for the same arguments; without it the cache is looked through here.
        map_fn: does the tasks elsewhere (Ray workers that each hold a `ChunkEncoder`).

    Raises:
        DatasetError: no pool image could be read.
        ModelError: the tower gives no finite number.
        OutputError: the cache's disk is too small or full.
    """
    start = time.perf_counter()
    work = plan.work if plan is not None and plan.work is not None else _find_work(dataset, spec, cache, views)
    broken_hashes: dict[str, str] = {}
    encoded = 0
    if len(work.rows):
        _require_space(spec, cache, work, 0 if views is None else views.count)
        tasks = _tasks(dataset, spec, work, views, chunk_size)
        total = int(work.center.sum()) + int(work.views.sum()) * (0 if views is None else views.count)
        results = (map_fn or _inline(encoder_factory))(tasks)
        broken_hashes, encoded = _store(results, spec, cache, views, _Meter(total, progress))
    broken = _broken(dataset, work.hashes, broken_hashes)
    kept = dataset.without(image.sample_id for image in broken)
    _require_pool(dataset, kept, broken)
    alive = np.ones(dataset.manifest.num_rows, bool)
    alive[Names.of(dataset.manifest["sample_id"]).find([image.sample_id for image in broken])] = False
    found = open_features(
        kept,
        work.hashes.values[alive],
        cache.features(spec),
        None if views is None else cache.views(spec, views),
        cache.folder,
    )
    return replace(found, broken=broken, n_encoded=encoded, seconds=time.perf_counter() - start)


def open_features(
    dataset: Dataset, hashes: HashArray, features: FeatureStore, views: FeatureStore | None, folder: str | None = None
) -> FeaturizedDataset:
    """Readers over cached features.

    Args:
        hashes: content hashes (n, 16) in manifest order. features: holds all of them. views: those of the pool.
        folder: where names and hashes of large pools may lie (`psp_ray.features.mapped`); None: in memory.
    """
    names, readers = {}, {}
    for part in PARTS:
        mine = pc.equal(dataset.manifest["split"], part)
        names[part] = Names(mapped_table(pa.table({"name": dataset.manifest["sample_id"].filter(mine)}), folder))
        rows = mapped_array(np.ascontiguousarray(hashes[mine.to_numpy()]), folder)
        keys = mapped_array(sample_keys(names[part]), folder)
        readers[part] = CachedPool(features, rows, keys, views if part == "pool" else None)

    def evaluated(part: str) -> SplitFeatures:
        labels = None if dataset.ground_truth is None else dataset.labels(part)
        return SplitFeatures(names[part], readers[part], labels)

    return FeaturizedDataset(
        dataset=dataset,
        pool=readers["pool"],
        val=evaluated("val"),
        test=evaluated("test"),
        sample_ids=names["pool"],
        content_hashes=Digests(readers["pool"].hashes),
    )


def _store(
    results: Iterable[ChunkResult],
    spec: EncoderSpec,
    cache: FeatureCache,
    views: ViewSettings | None,
    tell: Callable[[ChunkResult], None],
) -> tuple[dict[str, str], int]:
    """Write results as they come: (reason by content hash of what could not be encoded, encodings)."""
    features = cache.features(spec)
    view_store = None if views is None else cache.views(spec, views)
    cache.describe(spec, views)
    for store in (features, view_store):
        if store is not None:
            store.remove_stale_files()
    broken: dict[str, str] = {}
    encoded = 0
    for result in results:
        features.append(result.feature_hashes, result.features)
        if view_store is not None and len(result.view_hashes):
            view_store.append(result.view_hashes, result.views)
        broken.update((digest, reason) for digest, reason in result.broken)
        encoded += result.encodings
        tell(result)
    return broken, encoded


def _require_pool(dataset: Dataset, kept: Dataset, broken: list[BrokenImage]) -> None:
    if kept.pool.num_rows:
        return
    if all(image.reason == NOT_FINITE for image in broken):
        raise ModelError("the image tower gives no finite feature; check the weights or set precision to fp32")
    raise DatasetError(
        f"{dataset.name}: no readable image among {dataset.pool.num_rows} of the pool (the first: "
        f"{broken[0].sample_id}, {broken[0].reason}); give files that Pillow reads, such as JPEG or PNG"
    )


def write_broken(path: str | os.PathLike[str], broken: list[BrokenImage]) -> None:
    """`broken_images.csv`: sample_id, reason."""
    rows = [["sample_id", "reason"], *([image.sample_id, image.reason] for image in broken)]
    write_text(Path(path), csv_text(rows))


def _find_work(
    dataset: Dataset, spec: EncoderSpec, cache: FeatureCache, views: ViewSettings | None, looked: Looked | None = None
) -> _Work:
    hashes = hash_manifest(dataset.manifest, cache.folder, root=dataset.root, progress=looked)
    n = dataset.manifest.num_rows
    readable = np.ones(n, bool)
    readable[list(hashes.unreadable)] = False
    in_pool = pc.equal(dataset.manifest["split"], "pool").to_numpy()
    need_center = readable & ~cache.features(spec).contains(hashes.values, verify=True)
    need_views = np.zeros(n, bool)
    if views is not None:
        need_views = readable & in_pool & ~cache.views(spec, views).contains(hashes.values, verify=True)
    distinct = _first_rows(hashes.values, readable)
    center = need_center & distinct
    wanted_views = need_views & _first_rows(hashes.values, need_views)
    n_images = int(distinct.sum())
    # Cached: a content none of whose rows wants anything.
    wanting = {row.tobytes() for row in hashes.values[need_center | need_views]}
    return _Work(hashes, center, wanted_views, n_images, n_images - len(wanting))


def _first_rows(hashes: HashArray, among: np.ndarray) -> np.ndarray:
    """Which rows are the first of their content among the rows given."""
    first = np.zeros(len(hashes), bool)
    rows = np.flatnonzero(among)
    strings = np.ascontiguousarray(hashes[rows]).reshape(-1).view(f"S{HASH_BYTES}")
    first[rows[np.unique(strings, return_index=True)[1]]] = True
    return first


def _tasks(
    dataset: Dataset, spec: EncoderSpec, work: _Work, views: ViewSettings | None, chunk_size: int
) -> Iterator[ChunkTask]:
    """Tasks one at a time. Chunks are fixed ranges of the manifest, whatever of them is cached already; the first is a
    small one, so that an estimate comes soon."""
    wanted = work.center | work.views
    bounds = [0, *range(min(FIRST_CHUNK, chunk_size), dataset.manifest.num_rows, chunk_size), dataset.manifest.num_rows]
    for index, (start, stop) in enumerate(pairwise(bounds)):
        rows = start + np.flatnonzero(wanted[start:stop])
        if not len(rows):
            continue
        part = dataset.manifest.take(pa.array(rows))
        images = pa.table(
            {
                "content_hash": [work.hashes.values[row].tobytes() for row in rows],
                "path": part["path"],
                "image": part["image"],
                "center": work.center[rows],
                "views": work.views[rows],
            },
            schema=TASK_SCHEMA,
        )
        yield ChunkTask(index, images, views, preprocessing=str(spec.preprocessing))


def _inline(encoder_factory: Callable[[], ChunkEncoder]) -> MapTasks:
    def run(tasks: Iterable[ChunkTask]) -> Iterator[ChunkResult]:
        encoder = encoder_factory()
        for task in tasks:
            yield encoder.encode_chunk(task)

    return run


def _time_batch(encoder: ChunkEncoder, task: ChunkTask) -> float | None:
    """Encodings per second of a small task, the model's loading and first pass left out."""
    small = ChunkTask(task.index, task.images.slice(0, encoder.batch_size), task.views)
    encoder.encode_chunk(ChunkTask(small.index, small.images.slice(0, 1), None))
    height, width = encoder.preprocessing.size
    encoder.run_tower(np.zeros((encoder.batch_size, height, width, 3), np.uint8))
    result = encoder.encode_chunk(small)
    return result.encodings / result.seconds if result.encodings else None


def _require_space(spec: EncoderSpec, cache: FeatureCache, work: _Work, n_views: int) -> None:
    need = 2 * spec.dim * (int(work.center.sum()) + n_views * int(work.views.sum()))
    free = cache.free_bytes
    if need > free:
        raise OutputError(
            f"cache folder {cache.folder}: features take {need / 2**20:.0f} MiB but {free / 2**20:.0f} MiB are free; "
            "make room or set --cache to another folder"
        )


def _broken(dataset: Dataset, hashes: Hashes, by_hash: dict[str, str]) -> list[BrokenImage]:
    """Broken images in manifest order: files without bytes, and contents that no worker could encode."""
    if not by_hash and not hashes.unreadable:
        return []
    found = []
    for row, sample_id in enumerate(Names.of(dataset.manifest["sample_id"])):
        reason = hashes.unreadable.get(row) or by_hash.get(hashes.values[row].tobytes().hex())
        if reason:
            found.append(BrokenImage(sample_id, reason))
    return found


class _Meter:
    """Turns results into progress reports: the first before any work, then one per chunk.

    The clock starts when the first chunk was begun, so that the loading of models doesn't spoil the estimate.
    """

    def __init__(self, total: int, report: Callable[[Progress], None] | None):
        self._total, self._report, self._done = total, report, 0
        self._start: float | None = None
        if report is not None:
            report(Progress(0, total, None, None))

    def __call__(self, result: ChunkResult) -> None:
        now = time.perf_counter()
        if self._start is None:
            self._start = now - result.seconds
        self._done += result.asked
        if self._report is None:
            return
        speed = self._done / max(now - self._start, 1e-9)
        left = max(self._total - self._done, 0)
        self._report(Progress(self._done, self._total, speed or None, left / speed if speed else None))
