"""What each component of a run is built from, out of the settings and the featurized data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from psp_ray.config.config import Config
from psp_ray.core.names import Names
from psp_ray.data.dataset import Dataset
from psp_ray.features.cache import FeatureCache
from psp_ray.features.featurize import FeaturizedDataset
from psp_ray.features.pool import SplitFeatures
from psp_ray.features.tower import encoder_spec, view_settings
from psp_ray.run.asking import answers_from_truth, ledger_of
from psp_ray.run.inputs import (
    ComponentInputs,
    LearnerInput,
    OracleInput,
    PseudoLabelerInput,
    ViewInput,
    ViewStore,
)
from psp_ray.run.pool_source import PoolSource
from psp_ray.run.prepare import descriptions_of, teacher_of, templates_of


def component_inputs(config: Config, data: FeaturizedDataset, out: Path, experiment: str) -> ComponentInputs:
    """For all components; writes the pool's small manifest file into the cache, and views' description."""
    cache = FeatureCache.open(config.runtime.cache)
    return ComponentInputs(
        pool=PoolSource.of(data.pool, cache.folder, config.output.storage),
        sampler=config.policy,
        learner=learner_input(config, data),
        oracle=oracle_input(config, data.dataset, out, data.content_hashes, experiment, data.sample_ids),
        pseudo_labeler=_pseudo_labeler_input(config, data, cache),
    )


def evaluation_split(config: Config, data: FeaturizedDataset) -> SplitFeatures | None:
    """The labeled images to evaluate on; None where there are none."""
    split = data.test if config.data.evaluate_on == "test" else data.val
    return split if split.n > 0 and split.labels is not None else None


def learner_input(config: Config, data: FeaturizedDataset) -> LearnerInput:
    """For the prompt learner and evaluator."""
    cache = FeatureCache.open(config.runtime.cache).folder
    split = evaluation_split(config, data)
    labels = None if split is None else split.labels
    return LearnerInput(
        settings=config.learn,
        model=config.model,
        seed=config.runtime.seed,
        threads=config.runtime.threads,
        classes=data.dataset.prompt_names,
        templates=templates_of(config, data.dataset),
        descriptions=descriptions_of(config, data.dataset),
        evaluation=None if split is None else PoolSource.of(split.reader, cache, config.output.storage),
        evaluation_labels=np.zeros(0, np.int32) if labels is None else labels,
        pool_labels=data.dataset.known_labels("pool"),
        teacher=teacher_of(config, data.dataset),
        cache=cache,
    )


def oracle_input(
    config: Config,
    dataset: Dataset,
    out: Path,
    content_hashes: Sequence[str] = (),
    experiment: str = "",
    sample_ids: Sequence[str] | None = None,
) -> OracleInput:
    """What the oracle needs: for labels by file the pool's images, else the labels that it answers with.

    `content_hashes` of the pool's images: a shared oracle, and people, know them by these. `sample_ids` of the pool,
    where they are at hand.
    """
    asks = not answers_from_truth(config.labels)
    return OracleInput(
        settings=config.labels,
        classes=list(dataset.classes),
        ledger=ledger_of(config.labels, out),
        sample_ids=Names.of(dataset.pool["sample_id"]) if sample_ids is None else sample_ids,
        labels=dataset.known_labels("pool"),
        folder=str(out.resolve()) if asks else "",
        manifest=dataset.pool if asks else None,
        content_hashes=content_hashes if asks or config.labels.oracle == "shared" else (),
        former=dataset.former,
        experiment=experiment,
    )


def _pseudo_labeler_input(config: Config, data: FeaturizedDataset, cache: FeatureCache) -> PseudoLabelerInput | None:
    if config.selftrain.self_training == "none":
        return None
    count, mode = config.model.view_count, config.model.view_mode
    if mode == "cached":
        return PseudoLabelerInput(config.selftrain, count)
    store = None
    if mode == "on-demand":
        views, spec = view_settings(config.model), encoder_spec(config.model)
        cache.describe(spec, views)
        store = ViewStore(cache.views(spec, views).folder, data.pool.hashes)
    workers = ViewInput(config.model, config.runtime.threads, data.dataset.pool, data.pool.hashes)
    return PseudoLabelerInput(config.selftrain, count, workers, store)
