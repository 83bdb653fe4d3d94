"""Builds the components of a run from plain records: the same functions serve one process and Ray actors.

Labels of the pool reach the oracle and the evaluator only; the sampler and the pseudo-labeler never see them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from psp_ray.config.config import Config
from psp_ray.core.errors import ConfigError, OutputError
from psp_ray.core.files import read_tensors, write_tensors
from psp_ray.core.records import (
    BLOCK_SIZE,
    Evaluation,
    Float16Array,
    Float32Array,
    Int32Array,
    Int64Array,
    LearnOutcome,
    LearnRequest,
    PoolReader,
    PseudoLabels,
    StateDict,
    TextState,
)
from psp_ray.features.cache import FeatureStore
from psp_ray.features.pool import CachedPool
from psp_ray.run.pseudo_labeler import FreshSource, PseudoLabelerComponent, ViewInput, ViewStore
from psp_ray.storage.mirror import Storage

GPU_BATCH = 128
"""Images per pass of the image tower on a GPU."""


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
        digest = hashlib.blake2b(pool.hashes.tobytes() + pool.keys.tobytes(), digest_size=12).hexdigest()
        path = Path(cache_folder) / "pools" / f"{digest}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, {"hashes": pool.hashes, "keys": pool.keys})
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
        if self.storage is not None:
            place = Storage(self.storage)
            if not Path(self.manifest).exists():
                place.pull(self._stored(self.manifest), Path(self.manifest))
            for folder in self._folders():
                place.pull_new(self._stored(folder), Path(folder))
        if not Path(self.manifest).exists():
            raise OutputError(
                f"feature cache {self.manifest} is not there; every node must see the --cache folder, or give --storage"
            )
        arrays = read_tensors(Path(self.manifest))
        views = None
        if self.views_folder is not None:
            views = FeatureStore(self.views_folder, "views", self.n_views * self.dim)
        features = FeatureStore(self.features_folder, "features", self.dim)
        return CachedPool(features, arrays["hashes"], arrays["keys"], views)


@dataclass(frozen=True)
class LearnerInput:
    """What the prompt learner is built from.

    `evaluation` is None without images to evaluate on. `pool_labels` (n,), -1 where nobody knows, serve the reported
    pseudo-label precision alone.
    """

    settings: str
    classes: list[str]
    templates: list[str]
    descriptions: dict[str, list[str]]
    evaluation: PoolSource | None
    evaluation_labels: Int32Array
    pool_labels: Int32Array


@dataclass(frozen=True)
class OracleInput:
    """What the oracle is built from: class names, the ledger, and what its annotator needs.

    `labels` (n,) are the ground truth, -1 where nobody knows; `folder` and `manifest` (the pool's images) are for
    labels by file.
    """

    settings: str
    classes: list[str]
    ledger: str
    sample_ids: list[str]
    labels: Int32Array
    folder: str = ""
    manifest: pa.Table | None = None
    content_hashes: list[str] = field(default_factory=list)
    experiment: str = ""
    """Who pays for the votes of simulated annotators."""


def settings_json(config: Config) -> str:
    return json.dumps(config.flat())


def config_of(text: str) -> Config:
    return Config(**json.loads(text))


# -- the four components ---------------------------------------------------------------------------------------------


def build_sampler(settings: str, pool: PoolReader) -> Any:
    """The acquisition function that `strategy` names."""
    from psp_ray.acquisition.base import create
    from psp_ray.acquisition.wrappers.audit import with_audit

    config = config_of(settings)
    return create(with_audit(config.policy.strategy, config.policy), pool, config.policy)


def build_oracle(given: OracleInput) -> Any:
    """The oracle over its ledger, with the annotator that `oracle` names."""
    from psp_ray.labels import AnnotatorInput, Ledger, Oracle, OracleSettings, make_annotator

    config = config_of(given.settings)
    pairs = zip(given.sample_ids, given.labels.tolist(), strict=True)
    ledger = Ledger(given.ledger)
    annotator = make_annotator(
        annotator_name(config),
        AnnotatorInput(
            classes=given.classes,
            truth={name: label for name, label in pairs if label >= 0},
            pool=given.manifest,
            folder=Path(given.folder),
            settings_file=config.labels.annotators,
            ledger=ledger,
            experiment=given.experiment,
        ),
    )
    settings = OracleSettings(label_cap=config.labels.label_cap, cost_cap=config.labels.cost_cap)
    return Oracle(ledger, annotator, given.classes, settings)


def annotator_name(config: Config) -> str:
    """Who is asked: the true labels go through simulated annotators where some are described."""
    if config.labels.oracle == "ground-truth" and config.labels.annotators is not None:
        return "simulated"
    return config.labels.oracle


def check_annotators(config: Config, n_classes: int) -> None:
    """Raise a ConfigError for an annotator that there isn't, or simulated ones that can't be used, or would not be."""
    from psp_ray.labels import ANNOTATORS

    ANNOTATORS.find(config.labels.oracle)
    name = annotator_name(config)
    if name == "simulated" and config.labels.annotators is None:
        raise ConfigError("--oracle simulated: needs --annotators FILE, which says who they are")
    if config.labels.annotators is None:
        return
    if name == "shared":
        raise ConfigError(
            "--annotators: a shared oracle has its own; give them to `psp-ray oracle start`, or leave --oracle out"
        )
    if name != "simulated":
        raise ConfigError(f"--annotators: --oracle {config.labels.oracle} would not ask them; leave one of them out")
    from psp_ray.labels.annotators.simulated import SimulatedAnnotators, load_group

    SimulatedAnnotators({}, load_group(config.labels.annotators), n_classes)


def answers_from_truth(config: Config) -> bool:
    """Whether the annotator gives the data set's own labels, so that all of the pool must have one."""
    from psp_ray.labels import ANNOTATORS

    return ANNOTATORS.find(config.labels.oracle).needs_truth


def build_learner(given: LearnerInput, pool: PoolReader) -> LearnerComponent:
    return LearnerComponent(given, pool)


def build_pseudo_labeler(
    settings: str, pool: PoolReader, fresh: FreshSource | None = None, store: ViewStore | None = None
) -> PseudoLabelerComponent:
    return PseudoLabelerComponent(config_of(settings), pool, fresh, store)


class LearnerComponent:
    """Prompt learner and evaluator: the only component that holds the text tower."""

    def __init__(self, given: LearnerInput, pool: PoolReader):
        from psp_ray.clip import load_backbone
        from psp_ray.learn.trainer import PromptLearner

        self._given, self._pool = given, pool
        config = config_of(given.settings)
        backbone = load_backbone(backbone_spec(config), towers="text")
        assert backbone.text is not None
        self._backbone = backbone.describe()
        self._learner = PromptLearner(
            backbone.text,
            given.classes,
            pool,
            config.learn,
            descriptions=given.descriptions or None,
            seed=config.runtime.seed,
            threads=config.runtime.threads,
        )
        self._features: Float16Array | None = None

    def backbone(self) -> dict[str, Any]:
        """Provenance of the model, as plain values."""
        return json.loads(json.dumps(self._backbone, default=str))

    def zero_shot(self) -> TextState:
        return self._learner.zero_shot(self._given.templates)

    def learn(self, request: LearnRequest) -> LearnOutcome:
        return self._learner.learn(request)

    def evaluate(self, text: TextState) -> Evaluation:
        """Accuracy of `text` on the evaluation split; NaN of 0 images where there is none."""
        from psp_ray.learn.evaluate import evaluate

        if self._given.evaluation is None:
            return Evaluation(float("nan"), float("nan"), 0)
        if self._features is None:
            source = self._given.evaluation.open()
            self._features = source.rows(np.arange(source.n))
        return evaluate(text, [self._features], self._given.evaluation_labels)

    def pseudo_label_precision(self, pseudo: PseudoLabels) -> float:
        """Share of retained pseudo-labels that are right, among those whose class is known. For the report only."""
        truth = self._given.pool_labels[pseudo.positions]
        known = truth >= 0
        return float(np.mean(truth[known] == pseudo.labels[known])) if known.any() else float("nan")

    def cosines(self, text: TextState, positions: Int64Array) -> Float32Array:
        """`cos_ic` (k, C) of pool samples to the class embeddings of `text`."""
        from psp_ray.learn.evaluate import similarities

        return similarities(text, self._pool.rows(positions))

    def predict_pool(self, text: TextState, temperature: float = 1.0, pseudo: PseudoLabels | None = None) -> pa.Table:
        """`class_index` int32 and `probability` float32 of every pool sample, block by block.

        Probabilities are those of logits divided by `temperature`; a pseudo-labeled sample has the class of its
        pseudo-label.
        """
        from psp_ray.learn.evaluate import predict_proba

        scaled = TextState(text.features, text.logit_scale / temperature)
        labels, chances = [], []
        for index in range(self._pool.n_blocks):
            block = self._pool.block(index)
            probabilities = predict_proba(scaled, block.features)
            best = probabilities.argmax(axis=1).astype(np.int32)
            if pseudo is not None:
                low, high = np.searchsorted(pseudo.positions, [block.start, block.start + len(best)])
                best[pseudo.positions[low:high] - block.start] = pseudo.labels[low:high]
            labels.append(best)
            chances.append(probabilities[np.arange(len(best)), best].astype(np.float32))
        return pa.table({"class_index": np.concatenate(labels), "probability": np.concatenate(chances)})

    def agreement(self, before: TextState, after: TextState, positions: Int64Array) -> tuple[float, float]:
        """How far two prompts agree on pool samples: Cohen's kappa, and the share that they class differently."""
        from psp_ray.run.stopping import agreement

        one, other = (self.cosines(text, positions).argmax(axis=1) for text in (before, after))
        return agreement(one, other)

    def evaluation_confidence(self, text: TextState, temperature: float) -> pa.Table:
        """`confidence` and `correct` of every image of the evaluation split; no rows where there is none."""
        from psp_ray.learn.evaluate import predict_proba

        if self._given.evaluation is None:
            return pa.table({"confidence": np.zeros(0), "correct": np.zeros(0)})
        self.evaluate(text)
        assert self._features is not None
        chances = predict_proba(TextState(text.features, text.logit_scale / temperature), self._features)
        correct = chances.argmax(axis=1) == self._given.evaluation_labels
        return pa.table({"confidence": chances.max(axis=1).astype(np.float64), "correct": correct.astype(np.float64)})

    def state_dict(self) -> StateDict:
        return self._learner.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        self._learner.load_state_dict(state)


# -- fresh views -----------------------------------------------------------------------------------------------------


class ViewEncoder:
    """Encodes fresh views; heart of a view worker, or used directly in one process."""

    width = 1

    def __init__(self, given: ViewInput):
        from psp_ray.features.fresh import FreshViews

        config = config_of(given.settings)
        self._views = FreshViews(given.manifest, given.hashes, view_settings(config))
        self._encoder = make_encoder(config)

    def encode_piece(self, positions: Int64Array, round: int) -> Float16Array:
        return self._views.encode(self._encoder, positions, round)

    def encode(self, pieces: list[Int64Array], round: int) -> list[Float16Array]:
        return [self.encode_piece(piece, round) for piece in pieces]


def build_view_encoder(given: ViewInput) -> ViewEncoder:
    return ViewEncoder(given)


# -- the image tower -------------------------------------------------------------------------------------------------


def backbone_spec(config: Config) -> Any:
    from psp_ray.clip.spec import BackboneSpec

    return BackboneSpec(
        config.model.model,
        config.model.checkpoint,
        config.model.image_size,
        config.model.precision,
        config.model.device,
    )


def view_settings(config: Config) -> Any:
    from psp_ray.data.images import ViewSettings

    return ViewSettings(
        count=config.model.view_count,
        scale_min=config.model.view_scale,
        flip=config.model.view_flip,
        seed=config.model.view_seed,
    )


def load_image_tower(spec: Any) -> tuple[Any, Any]:
    """(image tower, backbone) of a `BackboneSpec`; on a CPU with batch norms folded into the convolutions."""
    from psp_ray.clip import load_backbone
    from psp_ray.features.fuse import fuse_conv_bn

    backbone = load_backbone(spec, towers="image")
    tower = backbone.image
    assert tower is not None
    if tower.device.type == "cpu" and tower.precision == "fp32":
        tower.visual = fuse_conv_bn(tower.visual, backbone.preprocessing.size)
    return tower, backbone


def make_encoder(config: Config) -> Any:
    """A `ChunkEncoder` over the run's image tower, which is loaded when the first image has been decoded."""
    from psp_ray.clip.backbone import choose_device
    from psp_ray.clip.spec import resolve
    from psp_ray.features.encoder import ChunkEncoder

    spec = backbone_spec(config)
    batch_size = None if choose_device(config.model.device) == "cpu" else GPU_BATCH
    return ChunkEncoder(
        lambda: load_image_tower(spec)[0],
        resolve(spec).preprocessing,
        batch_size=batch_size,
        decode_threads=config.runtime.threads,
    )


def build_encoder(settings: str) -> Any:
    return make_encoder(config_of(settings))


def first_blocks(n: int, shards: int) -> list[int]:
    """First block of each shard: whole blocks, as even as possible; fewer shards than asked for on small pools."""
    blocks = -(-n // BLOCK_SIZE)
    shards = max(1, min(shards, blocks))
    return [blocks * shard // shards for shard in range(shards)]
