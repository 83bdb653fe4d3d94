"""The components in this process: every call is done when it returns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import pyarrow as pa

from psp_ray.acquisition.base import AcquisitionFunction
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

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Done(Generic[T]):
    """A call that is already finished."""

    value: T
    seconds: float

    def result(self) -> T:
        return self.value


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Done[T]:
    """Call a function at once, and note how long it took."""
    start = time.perf_counter()
    value = function(*args, **kwargs)
    return Done(value, time.perf_counter() - start)


class LocalSampler:
    """A `Sampler` over an acquisition function."""

    def __init__(self, strategy: AcquisitionFunction):
        self._strategy = strategy

    def propose(self, state: PoolState) -> Done[Proposal]:
        return call(self._strategy.propose, state)

    def observe(self, feedback: Feedback) -> Done[Observation]:
        return call(self._strategy.observe, feedback)

    def state_dict(self) -> Done[StateDict]:
        return call(self._strategy.state_dict)

    def load_state_dict(self, state: StateDict) -> Done[None]:
        return call(self._strategy.load_state_dict, state)


class LocalPromptLearner:
    """A `PromptLearner` over its component."""

    def __init__(self, learner: LearnerComponent):
        self._learner = learner

    def backbone(self) -> Done[dict[str, Any]]:
        return call(self._learner.backbone)

    def zero_shot(self) -> Done[TextState]:
        return call(self._learner.zero_shot)

    def learn(self, request: LearnRequest) -> Done[LearnOutcome]:
        return call(self._learner.learn, request)

    def evaluate(self, text: TextState) -> Done[Evaluation | None]:
        return call(self._learner.evaluate, text)

    def pseudo_label_precision(self, pseudo: PseudoLabels) -> Done[float | None]:
        return call(self._learner.pseudo_label_precision, pseudo)

    def cosines(self, text: TextState, positions: Int64Array) -> Done[Float32Array]:
        return call(self._learner.cosines, text, positions)

    def agreement(self, before: TextState, after: TextState, positions: Int64Array) -> Done[Agreement]:
        return call(self._learner.agreement, before, after, positions)

    def predict_pool(self, text: TextState, temperature: float, pseudo: PseudoLabels | None) -> Done[pa.Table]:
        return call(self._learner.predict_pool, text, temperature, pseudo)

    def evaluation_confidence(self, text: TextState, temperature: float) -> Done[pa.Table]:
        return call(self._learner.evaluation_confidence, text, temperature)

    def state_dict(self) -> Done[StateDict]:
        return call(self._learner.state_dict)

    def load_state_dict(self, state: StateDict) -> Done[None]:
        return call(self._learner.load_state_dict, state)


class LocalPseudoLabeler:
    """A `PseudoLabeler` over its component."""

    def __init__(self, labeler: PseudoLabelerComponent):
        self._labeler = labeler

    def worth_views(self, request: ScoreRequest, known: KnownLabels, taken: Int64Array) -> Done[Int64Array]:
        return call(self._labeler.worth_views, request, known, taken)

    def encode_views(self, positions: Int64Array) -> Done[ViewProgress]:
        return call(self._labeler.encode_views, positions)

    def score(self, request: ScoreRequest) -> Done[Scores]:
        return call(self._labeler.score, request)

    def select(self, scores: Scores, known: KnownLabels, taken: Int64Array) -> Done[PseudoLabels]:
        return call(self._labeler.select, scores, known, taken)

    def doubt(self, zero_shot: TextState, known: KnownLabels) -> Done[Float32Array]:
        return call(self._labeler.doubt, zero_shot, known)

    def soft_labels(self, zero_shot: TextState, known: KnownLabels, folds: int) -> Done[SoftTargets]:
        return call(self._labeler.soft_labels, zero_shot, known, folds)


class LocalLabelSource:
    """A `LabelSource` over an oracle of the run's own."""

    def __init__(self, oracle: Oracle):
        self._oracle = oracle

    def label(self, request: LabelRequest) -> Done[LabelResponse]:
        return call(self._oracle.label, request)

    def restore(self, known: KnownAnswers) -> Done[LedgerRepair]:
        return call(self._oracle.restore, known)
