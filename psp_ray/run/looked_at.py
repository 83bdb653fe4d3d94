"""A run as it stands on disk, opened by who only looks: settings, newest checkpoint, features where they are cached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psp_ray.config.base import read_yaml
from psp_ray.config.config import Config
from psp_ray.core.errors import ConfigError, OutputError, UserError
from psp_ray.core.files import read_json
from psp_ray.features.cache import FeatureCache
from psp_ray.features.embedded import import_embeddings
from psp_ray.features.featurize import FeaturizedDataset
from psp_ray.features.opened import open_cached
from psp_ray.run.checkpoint import load_latest
from psp_ray.run.finish import pool_names
from psp_ray.run.folder import RUN_FILE, SUMMARY
from psp_ray.run.loop import CHECKPOINTS
from psp_ray.run.picks import PICKS
from psp_ray.run.prepare import prepare
from psp_ray.run.state import RunState
from psp_ray.run.state_files import state_of

CONFIG = "config.yaml"


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
    missing: str = ""


def is_run(folder: Path) -> bool:
    """Whether a folder is the output folder of a run."""
    return (folder / RUN_FILE).is_file() and (folder / CONFIG).is_file()


def settings_of(out: Path) -> Config:
    """The settings that a run in `out` was started with, or last continued.

    Raises:
        OutputError: no run there, or one of another version.
    """
    if not is_run(out):
        raise OutputError(f"{out}: no run of psp-ray there; give the output folder of one")
    try:
        return Config(**read_yaml(out / CONFIG, "--out"))
    except ConfigError as error:
        raise OutputError(f"{out / CONFIG}: written by another version of psp-ray ({error})") from None


def look_at(out: Path, data: FeaturizedDataset | None = None) -> LookedAt:
    """Open the run in `out`; `data` spares looking for its images and features where they are at hand.

    Raises:
        OutputError: no run there, or one of another version.
    """
    config = settings_of(out)
    checkpoint = load_latest(out / CHECKPOINTS)
    state = None if checkpoint is None else state_of(checkpoint, out)
    missing = ""
    if data is None:
        data, missing = _find_data(config, None if checkpoint is None else checkpoint.state.get("pool"))
    summary = read_json(out / SUMMARY) if (out / SUMMARY).is_file() else {}
    picks = pq.read_table(out / PICKS) if (out / PICKS).is_file() else None
    return LookedAt(out, config, summary, state, picks, data, missing)


def _find_data(config: Config, fingerprint: str | None) -> tuple[FeaturizedDataset | None, str]:
    """Images and cached features of the run's settings, or None and why not; nothing is encoded."""
    try:
        prepared = prepare(config)
        cache = FeatureCache.open(prepared.config.runtime.cache)
        if prepared.spec is None:
            data: FeaturizedDataset | None = import_embeddings(prepared.dataset, cache)
        else:
            data = open_cached(prepared.dataset, prepared.spec, cache)
    except (UserError, OSError) as error:
        return None, f"images and features were not at hand ({error})"
    if data is None:
        return None, "the features are not in the cache any more"
    if fingerprint is not None and pool_names(data).fingerprint != fingerprint:
        return None, "the images, or the features in the cache, are no longer those of the run"
    return data, ""
