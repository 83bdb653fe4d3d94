"""Accuracy without a test set, round by round: who is refitted, and which estimate belongs to which round.

The mathematics is in `psp_ray.posterior`; here it meets the components of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from psp_ray.config.config import Config
from psp_ray.core.records import (
    Float64Array,
    Int32Array,
    Int64Array,
    LearnOutcome,
    LearnRequest,
    PseudoLabels,
    StateDict,
    TextState,
)
from psp_ray.posterior.accuracy import Estimate, crossfit_estimate, recent_estimate, round_estimate
from psp_ray.posterior.audit import Answers, BoolArray
from psp_ray.posterior.crossfit import crossfit, fold_count
from psp_ray.run.interfaces import Crew

FOLDS = 10
"""At most one label in so many is left out at a time, where there is no test set."""

Learn = Callable[[LearnRequest], LearnOutcome]


@dataclass
class Line:
    """What a fold learned in the last round, never having seen the labels that it is judged by."""

    text: TextState
    learner: StateDict = field(default_factory=dict)


@dataclass
class Judged:
    """What cross-fitting hands from round to round: `logits` (k, C) of everything asked till then, NaN outside the
    audit stratum, and a line of descent per fold."""

    logits: Float64Array
    lines: list[Line]

    @classmethod
    def start(cls, count: int, zero_shot: TextState) -> Judged:
        return cls(np.zeros((0, len(zero_shot.features))), [Line(zero_shot) for _ in range(count)])

    def state_dict(self) -> StateDict:
        """All of it, for a checkpoint."""
        state: StateDict = {"logits": self.logits, "count": np.asarray(len(self.lines), np.int64)}
        for number, line in enumerate(self.lines):
            state[f"{number}.text"] = line.text.features
            state[f"{number}.logit_scale"] = np.asarray(line.text.logit_scale, np.float64)
            state |= {f"{number}.learner.{name}": value for name, value in line.learner.items()}
        return state

    @classmethod
    def restored(cls, state: StateDict) -> Judged:
        """What `state_dict` told."""
        lines = []
        for number in range(int(state["count"])):
            prefix = f"{number}.learner."
            learner = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
            text = TextState(state[f"{number}.text"], float(state[f"{number}.logit_scale"]))
            lines.append(Line(text, learner))
        return cls(state["logits"], lines)


def folds_of(config: Config, tested: bool) -> int:
    """How many folds are refitted after every round; 0: none."""
    wanted = (0 if tested else FOLDS) if config.labels.estimate_folds is None else config.labels.estimate_folds
    share = chance_share(config)
    return fold_count(share, wanted) if wanted and share else 0


def chance_share(config: Config) -> float:
    """The share of the labels that is drawn by chance alone."""
    from psp_ray.acquisition.wrappers.audit import with_audit

    base, *wrappers = with_audit(config.policy.strategy, config.policy).split("+")
    if base == "random" and set(wrappers) <= {"audit"}:
        return 1.0
    return config.policy.audit_share if "audit" in wrappers else 0.0


def judge(judged: Judged, answers: Answers, round: int, unlabeled: Int64Array, crew: Crew, learn: Learn) -> Judged:
    """Cross-fit the classifier after `round`: each fold learns as the run does, from its kept labels alone.

    The pseudo-labels of a fold come from its own teacher and its kept labels. The learner is left as it was.
    """
    before: StateDict = crew.learner.submit("state_dict").result()
    lines = list(judged.lines)

    def refit(fold: int, kept: BoolArray, rows: Int64Array) -> Float64Array:
        teacher, labeled, labels = lines[fold].text, answers.asked[kept], answers.answers[kept]
        crew.learner.submit("load_state_dict", lines[fold].learner).result()
        pseudo = _pseudo_labels(crew, teacher, unlabeled, round, labeled, labels)
        text = learn(LearnRequest(round, labeled, labels, 0, pseudo, teacher)).text
        lines[fold] = Line(text, crew.learner.submit("state_dict").result())
        cosines = crew.learner.submit("cosines", text, answers.asked[rows]).result()
        logits: Float64Array = text.logit_scale * np.asarray(cosines, np.float64)
        return logits

    logits = crossfit(answers, len(lines), refit)
    crew.learner.submit("load_state_dict", before).result()
    return Judged(logits, lines)


def _pseudo_labels(
    crew: Crew, teacher: TextState, unlabeled: Int64Array, round: int, labeled: Int64Array, labels: Int32Array
) -> PseudoLabels:
    if crew.pseudo_labeler is None:
        return PseudoLabels.empty()
    crew.pseudo_labeler.submit("label", teacher, unlabeled, round, labeled, labels).result()
    nothing = np.zeros(0, np.int64)
    found: PseudoLabels = crew.pseudo_labeler.submit("drop", nothing, round, labeled, labels).result()
    return found


def estimate_before(answers: Answers, judged: Judged, round: int) -> Estimate | None:
    """Accuracy of the classifier that `round` began with, now that the round's draws have been answered.

    `judged`: of the round before. Before the first round (zero-shot, or initial labels) the draws alone tell.
    """
    if round == 1:
        return round_estimate(answers, 1)
    if judged.lines:
        return crossfit_estimate(answers, judged.logits, round - 1)
    return recent_estimate(answers, round)


def estimate_after(answers: Answers, judged: Judged, round: int) -> Estimate | None:
    """Accuracy of the classifier after `round`, from `judged` of the same round; None without cross-fitting."""
    return crossfit_estimate(answers, judged.logits, round) if judged.lines else None
