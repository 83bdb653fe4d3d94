"""What each component of a run is built from: its own section of the settings, and what belongs to it.

Labels of the pool reach the label source and the evaluator only; the sampler and the pseudo-labeler never see them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from psp_ray.config.acquisition import SamplerSettings
from psp_ray.config.labels import LabelSettings
from psp_ray.config.learn import LearnSettings
from psp_ray.config.model import ModelSettings
from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.records import Int32Array, TextState
from psp_ray.features.segments import HashArray
from psp_ray.run.pool_source import PoolSource


@dataclass(frozen=True)
class LearnerInput:
    """For the learner.

    `teacher` are class embeddings given in place of a text tower, None where `model` has one. `evaluation` is None
    without images to evaluate on. `pool_labels` (n,), -1 where nobody knows, serve the reported pseudo-label precision
    alone. `cache` is the folder in which class embeddings are kept; empty: none are.
    """

    settings: LearnSettings
    model: ModelSettings
    seed: int
    threads: int
    classes: list[str]
    templates: list[str]
    descriptions: dict[str, list[str]]
    evaluation: PoolSource | None
    evaluation_labels: Int32Array
    pool_labels: Int32Array
    teacher: TextState | None = None
    cache: str = ""


@dataclass(frozen=True)
class OracleInput:
    """For the oracle: class names, the ledger, and what its annotator needs.

    `labels` (n,) are the ground truth, -1 where nobody knows; `folder` and `manifest` (the pool's images) are for
    labels by file.
    """

    settings: LabelSettings
    classes: list[str]
    ledger: str
    sample_ids: Sequence[str]
    labels: Int32Array
    folder: str = ""
    manifest: pa.Table | None = None
    content_hashes: Sequence[str] = ()
    former: Mapping[str, int] = field(default_factory=dict)
    """{name: class index} of names that classes bore before."""
    experiment: str = ""
    """Who pays for the votes of simulated annotators."""


@dataclass(frozen=True)
class ViewStore:
    """The cache folder of a pool's views, and the images' content hashes (n, 16)."""

    folder: str
    hashes: HashArray


@dataclass(frozen=True)
class ViewInput:
    """For a view worker: the pool's images (`sample_id, path, image, split`) and their content hashes (n, 16)."""

    model: ModelSettings
    threads: int
    manifest: pa.Table
    hashes: HashArray


@dataclass(frozen=True)
class PseudoLabelerInput:
    """For the pseudo-labeler. `views`: who encodes them, None where all are in the cache; `store`: where those that are
    encoded on demand are kept, None where they are made anew each round."""

    settings: SelfTrainingSettings
    view_count: int
    views: ViewInput | None = None
    store: ViewStore | None = None


@dataclass(frozen=True)
class ComponentInputs:
    """For all components of a run; `pseudo_labeler` is None without self-training."""

    pool: PoolSource
    sampler: SamplerSettings
    learner: LearnerInput
    oracle: OracleInput
    pseudo_labeler: PseudoLabelerInput | None
