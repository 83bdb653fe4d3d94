"""Builds the hearts of the components from plain records: the same functions serve one process and Ray actors.

Each imports what it builds: an actor waits for the modules of its own component alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from psp_ray.config.acquisition import SamplerSettings
from psp_ray.config.model import ModelSettings
from psp_ray.core.names import Looked, Names
from psp_ray.core.records import PoolReader

if TYPE_CHECKING:
    from psp_ray.acquisition.base import AcquisitionFunction
    from psp_ray.features.encoder import ChunkEncoder
    from psp_ray.labels import Oracle
    from psp_ray.run.inputs import LearnerInput, OracleInput, PseudoLabelerInput, ViewInput
    from psp_ray.run.learner import LearnerComponent
    from psp_ray.run.pseudo_labeler import PseudoLabelerComponent
    from psp_ray.run.views import FreshSource, ViewEncoder


def build_sampler(settings: SamplerSettings, pool: PoolReader) -> AcquisitionFunction:
    """The acquisition function that `strategy` names, with its audit."""
    from psp_ray.acquisition.base import create
    from psp_ray.acquisition.wrappers.audit import with_audit

    return create(with_audit(settings.strategy, settings), pool, settings)


def build_oracle(given: OracleInput) -> Oracle:
    """The oracle over its ledger, with the annotator that `oracle` names."""
    from psp_ray.labels import AnnotatorInput, Ledger, Oracle, OracleSettings, make_annotator
    from psp_ray.run.asking import annotator_name

    ledger, names = Ledger(given.ledger), Names.of(given.sample_ids)
    known = given.labels >= 0
    annotator = make_annotator(
        annotator_name(given.settings),
        AnnotatorInput(
            classes=given.classes,
            truth=Looked(names, given.labels, None if known.all() else known),
            pool=given.manifest,
            folder=Path(given.folder),
            settings_file=given.settings.annotators,
            ledger=ledger,
            experiment=given.experiment,
            content_hashes=Looked(names, given.content_hashes) if given.content_hashes else {},
            former=given.former,
        ),
    )
    caps = OracleSettings(label_cap=given.settings.label_cap, cost_cap=given.settings.cost_cap)
    return Oracle(ledger, annotator, given.classes, caps)


def build_learner(given: LearnerInput, pool: PoolReader) -> LearnerComponent:
    from psp_ray.run.learner import LearnerComponent

    return LearnerComponent(given, pool)


def build_pseudo_labeler(
    given: PseudoLabelerInput, pool: PoolReader, fresh: FreshSource | None = None
) -> PseudoLabelerComponent:
    from psp_ray.run.pseudo_labeler import PseudoLabelerComponent

    return PseudoLabelerComponent(given, pool, fresh)


def build_view_encoder(given: ViewInput) -> ViewEncoder:
    from psp_ray.run.views import ViewEncoder

    return ViewEncoder(given)


def build_encoder(model: ModelSettings, threads: int) -> ChunkEncoder:
    from psp_ray.features.tower import make_encoder

    return make_encoder(model, threads)
