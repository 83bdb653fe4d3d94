"""Encoding what the feature cache lacks, before a run or by itself."""

from __future__ import annotations

from psp_ray.config.config import Config
from psp_ray.core.threads import limit_threads
from psp_ray.core.words import counted
from psp_ray.features.cache import FeatureCache
from psp_ray.features.embedded import import_embeddings
from psp_ray.features.featurize import FeaturizedDataset, Progress, featurize, plan_featurize
from psp_ray.features.quota import make_room
from psp_ray.features.tower import make_encoder, view_settings
from psp_ray.report.progress import LOOKING, Reporter, counting
from psp_ray.run.events import Events
from psp_ray.run.prepare import Prepared, prepare, uses_cached_views
from psp_ray.run.runtime import Featurizer, OpenRuntime, inline


def featurize_only(
    config: Config, events: Events | None = None, open_runtime: OpenRuntime = inline
) -> FeaturizedDataset:
    """Fill the feature cache for a data set. Raises UserError as `psp_ray.run.command.run`."""
    events = events or Reporter(config.labels.rounds)
    limit_threads(config.runtime.threads)
    prepared = prepare(config)
    with open_runtime(prepared.config) as runtime:  # the complete settings: encoders are built from them
        data = featurize_prepared(prepared, runtime, events)
    for image in data.broken:
        events.warn(f"{image.sample_id}: {image.reason}")
    n = data.dataset.manifest.num_rows
    what = "images" if prepared.spec is not None else "embeddings"
    events.note(f"{n:,} {what} of {config.data.dataset} are in the cache, {data.n_encoded:,} made now")
    return data


def featurize_prepared(prepared: Prepared, runtime: Featurizer, events: Events) -> FeaturizedDataset:
    """Encode what the cache lacks, with an estimate first; `runtime` is used only where something is missing."""
    for note in prepared.dataset.notes:
        events.note(note)
    if prepared.spec is None:
        return _take_in(prepared, events)
    config = prepared.config
    cache = FeatureCache.open(config.runtime.cache)
    views = view_settings(config.model) if uses_cached_views(config) else None
    plan = plan_featurize(prepared.dataset, prepared.spec, cache, views, looked=counting(events, LOOKING))
    events.stop()
    if plan.n_missing and config.runtime.cache_gib is not None:
        stores = [cache.features(prepared.spec), *([cache.views(prepared.spec, views)] if views else [])]
        for line in make_room(
            cache.folder, config.runtime.cache_gib, plan.bytes_needed, [store.folder for store in stores]
        ):
            events.note(f"--cache-gib {config.runtime.cache_gib:g}: {line}")
    if plan.n_missing:
        copies = "" if not plan.n_copies else f"; {plan.n_copies:,} more {_are_copies(plan.n_copies)}"
        events.note(
            f"featurizing {counted(plan.n_missing, 'image')} "
            f"({counted(plan.n_encodings, 'encoding')} with views) once, "
            f"{plan.bytes_needed / 2**20:.1f} MiB into {cache.folder}{copies}"
        )

    def show(progress: Progress) -> None:
        if progress.images_per_second is not None:
            events.featurizing(progress.done, progress.total, progress.images_per_second, progress.eta_seconds or 0.0)

    data = featurize(
        prepared.dataset,
        prepared.spec,
        cache,
        lambda: make_encoder(config.model, config.runtime.threads),
        views,
        plan=plan,
        map_fn=runtime.map_chunks if plan.n_missing else None,
        progress=show if plan.n_missing else None,
    )
    events.stop()
    return data


def _are_copies(count: int) -> str:
    return "is a copy of one of them, byte by byte" if count == 1 else "are copies, byte by byte"


def _take_in(prepared: Prepared, events: Events) -> FeaturizedDataset:
    """A data set's own embeddings, taken into the cache unless they are there."""
    config = prepared.config
    cache = FeatureCache.open(config.runtime.cache)
    data = import_embeddings(prepared.dataset, cache, counting(events, "embeddings taken into the cache"))
    events.stop()
    if config.selftrain.self_training != "none" and not data.pool.n_views:
        events.note("the embeddings have no views: self-training looks at each sample once")
    return data
