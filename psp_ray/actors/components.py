"""The components of a run on Ray: each call goes to an actor, named by the method of the component that it is.

A misspelled method or a wrong argument is an error of the type checker's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from psp_ray.acquisition.base import AcquisitionFunction
from psp_ray.actors.shell import ActorHandle, RayFuture
from psp_ray.core.records import (
    Evaluation,
    Feedback,
    Float32Array,
    Int64Array,
    LearnOutcome,
    LearnRequest,
    Observation,
    PoolState,
    Proposal,
    PseudoLabels,
    StateDict,
    TextState,
)
from psp_ray.labels.restore import KnownAnswers, LedgerRepair
from psp_ray.labels.service import LabelRequest, LabelResponse, Oracle
from psp_ray.run.learner import Agreement, LearnerComponent
from psp_ray.run.pseudo_labeler import PseudoLabelerComponent
from psp_ray.run.views import ViewProgress
from psp_ray.selftrain.records import KnownLabels, ScoreRequest, Scores, SoftTargets


@dataclass(frozen=True)
class RaySampler:
    """A `Sampler`."""

    actor: ActorHandle[AcquisitionFunction]

    def propose(self, state: PoolState) -> RayFuture[Proposal]:
        return self.actor.ask(AcquisitionFunction.propose, state)

    def observe(self, feedback: Feedback) -> RayFuture[Observation]:
        return self.actor.ask(AcquisitionFunction.observe, feedback)

    def state_dict(self) -> RayFuture[StateDict]:
        return self.actor.ask(AcquisitionFunction.state_dict)

    def load_state_dict(self, state: StateDict) -> RayFuture[None]:
        return self.actor.ask(AcquisitionFunction.load_state_dict, state)


@dataclass(frozen=True)
class RayPromptLearner:
    """A `PromptLearner`."""

    actor: ActorHandle[LearnerComponent]

    def backbone(self) -> RayFuture[dict[str, Any]]:
        return self.actor.ask(LearnerComponent.backbone)

    def zero_shot(self) -> RayFuture[TextState]:
        return self.actor.ask(LearnerComponent.zero_shot)

    def learn(self, request: LearnRequest) -> RayFuture[LearnOutcome]:
        return self.actor.ask(LearnerComponent.learn, request)

    def evaluate(self, text: TextState) -> RayFuture[Evaluation | None]:
        return self.actor.ask(LearnerComponent.evaluate, text)

    def pseudo_label_precision(self, pseudo: PseudoLabels) -> RayFuture[float | None]:
        return self.actor.ask(LearnerComponent.pseudo_label_precision, pseudo)

    def cosines(self, text: TextState, positions: Int64Array) -> RayFuture[Float32Array]:
        return self.actor.ask(LearnerComponent.cosines, text, positions)

    def agreement(self, before: TextState, after: TextState, positions: Int64Array) -> RayFuture[Agreement]:
        return self.actor.ask(LearnerComponent.agreement, before, after, positions)

    def predict_pool(self, text: TextState, temperature: float, pseudo: PseudoLabels | None) -> RayFuture[pa.Table]:
        return self.actor.ask(LearnerComponent.predict_pool, text, temperature, pseudo)

    def evaluation_confidence(self, text: TextState, temperature: float) -> RayFuture[pa.Table]:
        return self.actor.ask(LearnerComponent.evaluation_confidence, text, temperature)

    def state_dict(self) -> RayFuture[StateDict]:
        return self.actor.ask(LearnerComponent.state_dict)

    def load_state_dict(self, state: StateDict) -> RayFuture[None]:
        return self.actor.ask(LearnerComponent.load_state_dict, state)


@dataclass(frozen=True)
class RayPseudoLabeler:
    """A `PseudoLabeler`."""

    actor: ActorHandle[PseudoLabelerComponent]

    def worth_views(self, request: ScoreRequest, known: KnownLabels, taken: Int64Array) -> RayFuture[Int64Array]:
        return self.actor.ask(PseudoLabelerComponent.worth_views, request, known, taken)

    def encode_views(self, positions: Int64Array) -> RayFuture[ViewProgress]:
        return self.actor.ask(PseudoLabelerComponent.encode_views, positions)

    def score(self, request: ScoreRequest) -> RayFuture[Scores]:
        return self.actor.ask(PseudoLabelerComponent.score, request)

    def select(self, scores: Scores, known: KnownLabels, taken: Int64Array) -> RayFuture[PseudoLabels]:
        return self.actor.ask(PseudoLabelerComponent.select, scores, known, taken)

    def doubt(self, zero_shot: TextState, known: KnownLabels) -> RayFuture[Float32Array]:
        return self.actor.ask(PseudoLabelerComponent.doubt, zero_shot, known)

    def soft_labels(self, zero_shot: TextState, known: KnownLabels, folds: int) -> RayFuture[SoftTargets]:
        return self.actor.ask(PseudoLabelerComponent.soft_labels, zero_shot, known, folds)


@dataclass(frozen=True)
class RayLabelSource:
    """A `LabelSource`: the run's own oracle."""

    actor: ActorHandle[Oracle]

    def label(self, request: LabelRequest) -> RayFuture[LabelResponse]:
        return self.actor.ask(Oracle.label, request)

    def restore(self, known: KnownAnswers) -> RayFuture[LedgerRepair]:
        return self.actor.ask(Oracle.restore, known)
