"""Accuracy without a test set, round by round: who is refitted, and which estimate belongs to which round.

The mathematics is in `psp_ray.posterior`; here it meets the components of a run.
"""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition.wrappers.audit import with_audit
from psp_ray.config.config import Config
from psp_ray.core.records import Float32Array, Float64Array, Int64Array, PseudoLabels
from psp_ray.posterior.accuracy import Estimate, crossfit_estimate, round_estimate
from psp_ray.posterior.audit import Answers, BoolArray
from psp_ray.posterior.crossfit import crossfit, fold_count
from psp_ray.run.context import RunContext
from psp_ray.run.crossfitted import CrossFitted, Line
from psp_ray.run.learning import learn, learn_request
from psp_ray.run.self_training import NOBODY
from psp_ray.selftrain.records import KnownLabels

FOLDS = 10
"""At most one label in so many is left out at a time, where there is no test set."""
NO_CONTEXTS: Float32Array = np.zeros((0, 0), np.float32)


def folds_of(config: Config, tested: bool) -> int:
    """How many folds are refitted after every round; 0: none."""
    wanted = (0 if tested else FOLDS) if config.labels.estimate_folds is None else config.labels.estimate_folds
    share = chance_share(config)
    return fold_count(share, wanted) if wanted and share else 0


def chance_share(config: Config) -> float:
    """The share of the labels that is drawn by chance alone."""
    base, *wrappers = with_audit(config.policy.strategy, config.policy).split("+")
    if base == "random" and set(wrappers) <= {"audit"}:
        return 1.0
    return config.policy.audit_share if "audit" in wrappers else 0.0


def judge(run: RunContext, number: int, judged: CrossFitted, answers: Answers, unlabeled: Int64Array) -> CrossFitted:
    """Cross-fit the classifier after round `number`: each fold learns as the run does, from its kept labels alone.

    Pseudo-labels and posterior of a fold come from its own teacher and its kept labels, and so do the choice and the
    mixture of its head. `judged`: of the round before; `unlabeled`: sorted positions that nobody was asked about yet.
    The learner is left as it was.
    """
    learner = run.components.learner
    before = learner.state_dict().result()
    lines = list(judged.lines)

    def refit(fold: int, kept: BoolArray, rows: Int64Array) -> Float64Array:
        run.events.stage(number, f"judge {fold + 1}/{len(lines)}")
        rounds = answers.asked_in[kept].astype(np.int64)
        known = KnownLabels(answers.asked[kept], answers.answers[kept], rounds)
        lines[fold] = _next(run, number, lines[fold], known, unlabeled)
        text = lines[fold].text
        cosines = learner.cosines(text, answers.asked[rows]).result()
        logits: Float64Array = text.logit_scale * cosines.astype(np.float64)
        return logits

    logits = crossfit(answers, len(lines), refit)
    learner.load_state_dict(before).result()
    return CrossFitted(logits, tuple(lines))


def _next(run: RunContext, number: int, line: Line, known: KnownLabels, unlabeled: Int64Array) -> Line:
    """What a fold learns in round `number` from the labels that are `known` to it."""
    learner = run.components.learner
    learner.load_state_dict(line.learner).result()
    pseudo, soft = PseudoLabels.empty(), None
    training = run.self_training(number, line.text, unlabeled)
    if training is not None:
        pseudo = training.finish(training.begin(), known, NOBODY)
        soft = training.soft_labels(known)
    outcome, _ = learn(learner, learn_request(number, known, pseudo, soft, line.text), NO_CONTEXTS)
    return Line(outcome.text, learner.state_dict().result())


def estimate_before(answers: Answers, judged: CrossFitted, number: int) -> Estimate | None:
    """Accuracy of the classifier that round `number` began with, now that the round's draws have been answered.

    `judged`: of the round before. Before the first round (zero-shot, or initial labels) and without cross-fitting the
    round's draws alone tell: those of rounds before judged other classifiers, which may have been far worse.
    """
    if number > 1 and judged.lines:
        return crossfit_estimate(answers, judged.logits, number - 1)
    return round_estimate(answers, number)


def estimate_after(answers: Answers, judged: CrossFitted, number: int) -> Estimate | None:
    """Accuracy of the classifier after round `number`, from `judged` of the same round; None without cross-fitting."""
    return crossfit_estimate(answers, judged.logits, number) if judged.lines else None
