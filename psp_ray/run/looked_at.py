"""A run as it stands on disk, opened by who only looks: settings, newest checkpoint, features where they are cached."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from psp_ray.config.config import Config
from psp_ray.core.errors import ConfigError, OutputError, UserError
from psp_ray.features.cache import FeatureCache
from psp_ray.features.embedded import import_embeddings
from psp_ray.features.featurize import FeaturizedDataset
from psp_ray.features.opened import open_cached
from psp_ray.run.checkpoint import Checkpoint, newest
from psp_ray.run.finish import pool_names
from psp_ray.run.folder import CONFIG, PICKS, SUMMARY, read_summary
from psp_ray.run.folder import KEPT as CHECKPOINTS
from psp_ray.run.picks import picks_of, read_picks
from psp_ray.run.prepare import prepare
from psp_ray.run.remains import settings_in
from psp_ray.run.state import RunState
from psp_ray.run.state_files import from_checkpoint, recorded


@dataclass(frozen=True)
class LookedAt:
    """A run's folder. `state` is None before the first round is done; `data` where features or images are not at hand,
    and `missing` says why; `summary` is empty until the run ended or rests."""

    out: Path
    config: Config
    summary: dict[str, Any]
    state: RunState | None
    picks: pa.Table | None
    data: FeaturizedDataset | None
    classes: list[str]
    """As the checkpoint names them; empty before there is one."""
    missing: str = ""

    @property
    def last(self) -> int:
        """The newest round that is done, by the checkpoints; 0 before there is one."""
        return 0 if self.state is None else self.state.round


def settings_of(out: Path) -> Config:
    """The settings that a run in `out` was started with, or last continued.

    Raises:
        OutputError: no run there, or one of another version. ConfigError: as `settings_in`.
    """
    settings = settings_in(out)
    try:
        return Config(**settings)
    except ConfigError as error:
        raise OutputError(f"{out / CONFIG}: written by another version of psp-ray ({error})") from None


def look_at(out: Path, data: FeaturizedDataset | None = None) -> LookedAt:
    """Open the run in `out`; `data` spares looking for its images and features where they are at hand.

    Raises:
        OutputError: no run there, one of another version, or a damaged file.
    """
    config = settings_of(out)
    checkpoint = newest(out / CHECKPOINTS)
    missing = ""
    if data is None:
        data, missing = _find_data(config)
    state, classes, picks = None, [], None
    if checkpoint is not None:
        record, state = recorded(checkpoint, out)
        classes = record.classes or []
        try:
            if data is not None:
                names = pool_names(data)
                classes = names.classes[: len(classes)] if classes else names.classes  # as they are called now
                state = from_checkpoint(checkpoint, replace(names, classes=classes), out).state
        except OutputError as error:
            data, missing = None, str(error)
        picks = _picks(out, checkpoint, state, data, classes)
    summary = read_summary(out) if (out / SUMMARY).is_file() else {}
    return LookedAt(out, config, summary, state, picks, data, classes, missing)


def _picks(
    out: Path, checkpoint: Checkpoint, state: RunState, data: FeaturizedDataset | None, classes: list[str]
) -> pa.Table | None:
    """Every pick of `state`, by the checkpoint; of an older version, which names no samples, by `picks.parquet`."""
    if data is not None:
        names = pool_names(data)
        return picks_of(out, state, names.named(state.asked), classes, len(names.sample_ids))
    labels = checkpoint.tables["labels"]
    if "sample_id" not in labels.column_names or not classes:
        return read_picks(out / PICKS)
    return picks_of(out, state, labels["sample_id"].to_pylist(), classes, checkpoint.state["n_pool"])


def _find_data(config: Config) -> tuple[FeaturizedDataset | None, str]:
    """Images and cached features of the run's settings, or None and why not; nothing is encoded."""
    try:
        prepared = prepare(config, begun=True)
        cache = FeatureCache.open(prepared.config.runtime.cache)
        if prepared.spec is None:
            data: FeaturizedDataset | None = import_embeddings(prepared.dataset, cache)
        else:
            data = open_cached(prepared.dataset, prepared.spec, cache)
    except (UserError, OSError) as error:
        return None, f"images and features were not at hand ({error})"
    if data is None:
        return None, "the features are not in the cache any more"
    return data, ""
