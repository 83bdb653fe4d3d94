"""The doors of a run: who does the work of a round, and what each of them can be asked.

The round loop knows these protocols only. `psp_ray.run.local` implements them in this process, `psp_ray.actors` on Ray;
the loop can't tell the difference. A call starts the work and gives a `Future`; the loop waits where it needs the
result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pyarrow as pa

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
from psp_ray.labels.service import LabelRequest, LabelResponse
from psp_ray.run.learner import Agreement
from psp_ray.run.views import ViewProgress
from psp_ray.selftrain.records import KnownLabels, ScoreRequest, Scores, SoftTargets

T_co = TypeVar("T_co", covariant=True)


class Future(Protocol[T_co]):
    """A call under way."""

    @property
    def seconds(self) -> float:
        """Time the component itself worked on the call; known once `result` has returned."""
        ...

    def result(self) -> T_co:
        """Wait for the call and return its value, or raise what it raised."""
        ...


class Sampler(Protocol):
    """Chooses query sets: an acquisition function somewhere (`psp_ray.acquisition.base.AcquisitionFunction`)."""

    def propose(self, state: PoolState) -> Future[Proposal]: ...
    def observe(self, feedback: Feedback) -> Future[Observation]: ...
    def state_dict(self) -> Future[StateDict]: ...
    def load_state_dict(self, state: StateDict) -> Future[None]: ...


class PromptLearner(Protocol):
    """Learns prompts and judges them (`psp_ray.run.learner.LearnerComponent`)."""

    def backbone(self) -> Future[dict[str, Any]]: ...
    def zero_shot(self) -> Future[TextState]: ...
    def learn(self, request: LearnRequest) -> Future[LearnOutcome]: ...
    def evaluate(self, text: TextState) -> Future[Evaluation | None]: ...
    def pseudo_label_precision(self, pseudo: PseudoLabels) -> Future[float | None]: ...
    def cosines(self, text: TextState, positions: Int64Array) -> Future[Float32Array]: ...
    def agreement(self, before: TextState, after: TextState, positions: Int64Array) -> Future[Agreement]: ...
    def predict_pool(self, text: TextState, temperature: float, pseudo: PseudoLabels | None) -> Future[pa.Table]: ...
    def evaluation_confidence(self, text: TextState, temperature: float) -> Future[pa.Table]: ...
    def state_dict(self) -> Future[StateDict]: ...
    def load_state_dict(self, state: StateDict) -> Future[None]: ...


class PseudoLabeler(Protocol):
    """Labels what nobody was asked about (`psp_ray.run.pseudo_labeler.PseudoLabelerComponent`)."""

    def worth_views(self, request: ScoreRequest, known: KnownLabels, taken: Int64Array) -> Future[Int64Array]: ...
    def encode_views(self, positions: Int64Array) -> Future[ViewProgress]: ...
    def score(self, request: ScoreRequest) -> Future[Scores]: ...
    def select(self, scores: Scores, known: KnownLabels, taken: Int64Array) -> Future[PseudoLabels]: ...
    def doubt(self, zero_shot: TextState, known: KnownLabels) -> Future[Float32Array]: ...
    def soft_labels(self, zero_shot: TextState, known: KnownLabels, folds: int) -> Future[SoftTargets]: ...


class LabelSource(Protocol):
    """Answers which class images have (`psp_ray.labels.service.Oracle`, or a shared one)."""

    def label(self, request: LabelRequest) -> Future[LabelResponse]: ...
    def restore(self, known: KnownAnswers) -> Future[LedgerRepair]: ...


@dataclass(frozen=True)
class Components:
    """The components of a run; `pseudo_labeler` is None without self-training."""

    oracle: LabelSource
    sampler: Sampler
    learner: PromptLearner
    pseudo_labeler: PseudoLabeler | None = None
