"""Learning a student: what is asked of the learner, the same for a round and for the folds that judge it."""

from __future__ import annotations

import numpy as np

from psp_ray.core.records import Float32Array, LearnOutcome, LearnRequest, PseudoLabels, TextState
from psp_ray.run.interfaces import PromptLearner
from psp_ray.selftrain.records import KnownLabels, SoftTargets


def learn_request(
    round: int, known: KnownLabels, pseudo: PseudoLabels, soft: SoftTargets | None, teacher: TextState
) -> LearnRequest:
    """The request of a round whose new labels are those of `known` that were bought in it."""
    return LearnRequest(
        round=round,
        labeled=known.positions,
        labels=known.labels,
        n_new=int((known.rounds == round).sum()),
        pseudo=pseudo,
        teacher=teacher,
        soft=None if soft is None else soft.soft,
        held_out=() if soft is None else soft.held_out,
    )


def learn(learner: PromptLearner, request: LearnRequest, contexts: Float32Array) -> tuple[LearnOutcome, float]:
    """The student and the seconds it took; the teacher and its `contexts` stay where there is nothing to learn from."""
    if len(request.labeled) + len(request.pseudo.positions) == 0:
        none = np.zeros(0, np.float32)
        warning = "no label to learn from yet: the prompts stay as they are"
        return LearnOutcome(request.teacher, contexts, none, none, none, none, float("nan"), 0, 0, warning), 0.0
    learning = learner.learn(request)
    outcome = learning.result()
    return outcome, learning.seconds
