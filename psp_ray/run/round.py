"""One round: propose -> (label || pseudo-label) -> learn -> reward -> update, as the state that follows from it.

It holds no mathematics and doesn't know whether the components live in this process or in Ray actors. Nothing here
outlives the round: until its checkpoint is written it can be repeated identically (noise depends on the seed and the
round alone, the oracle answers a repeated request without buying again).
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from psp_ray.acquisition.base import validate_proposal
from psp_ray.core.answers import IGNORE, SKIP
from psp_ray.core.probability import softmax
from psp_ray.core.records import (
    Evaluation,
    Feedback,
    Float32Array,
    Grounds,
    Int32Array,
    Int64Array,
    LearnOutcome,
    Observation,
    PoolState,
    Proposal,
    PseudoLabels,
)
from psp_ray.labels.orders import request_id
from psp_ray.labels.service import LabelRequest, LabelResponse
from psp_ray.posterior.accuracy import recent_estimate
from psp_ray.report.round_report import RoundReport, StageSeconds, known
from psp_ray.run.context import RunContext
from psp_ray.run.judging import estimate_after, estimate_before, judge
from psp_ray.run.learner import Agreement
from psp_ray.run.learning import learn, learn_request
from psp_ray.run.local import Done
from psp_ray.run.messages import tell_corrections, tell_unasked
from psp_ray.run.state import RunState
from psp_ray.run.stop import reason_to_stop
from psp_ray.run.stopping import WINDOW, Expectation, expected_gain
from psp_ray.run.stops import Evidence
from psp_ray.selftrain.records import SoftTargets


@dataclass(frozen=True)
class Answered:
    """A query set with its answers `new` (n_s,), taken into `state`, and the pseudo-labels that go with them.

    `soft`: the posterior, where it teaches and the head learns from it.
    """

    state: RunState
    new: Int32Array
    pseudo: PseudoLabels
    soft: SoftTargets | None = None

    @property
    def rows(self) -> Int64Array:
        """Which of the query set were given a class."""
        return np.flatnonzero(self.new >= 0)

    @property
    def unasked(self) -> int:
        """How many others were given a class in the round."""
        rounds = self.state.asked_in[self.state.has_class]
        return int((rounds == self.state.round + 1).sum()) - len(self.rows)


@dataclass(frozen=True)
class Judged:
    """What the round was worth: to the sampler, and as far as anybody knows to the user."""

    observation: Observation
    evaluation: Evaluation | None
    precision: float | None
    agreement: Agreement


@dataclass(frozen=True)
class Played:
    """The state after a round, not saved yet, and what is told of the round when it is."""

    state: RunState
    warning: str
    expectation: Expectation | None
    ends: bool
    """No further round can follow."""


class Round:
    """Round `number`, on from `state`, over `n_query` images (default: as set); each method is a step of `play`."""

    def __init__(self, run: RunContext, state: RunState, number: int, n_query: int | None = None):
        self.run, self.state, self.number = run, state, number
        self.unlabeled = state.unlabeled(run.n_pool)
        self._n_query = min(n_query or run.n_query, len(self.unlabeled))
        self.started = time.perf_counter()
        self._seconds = StageSeconds()
        self._doubt: Float32Array | None = None

    def play(self) -> Played:
        """The whole round. What it raises leaves nothing behind but labels in the ledger."""
        return self.go_on(self.propose())

    def go_on(self, proposal: Proposal) -> Played:
        """All that follows a query set, or the part of one (`part_of`) that is to do for this round."""
        answered = self.label_and_pseudo_label(proposal)
        outcome = self.learn(answered)
        judged = self.reward_and_update(proposal, answered, outcome)
        return self.conclude(proposal, answered, outcome, judged)

    def propose(self) -> Proposal:
        """The query set, checked."""
        self.run.events.stage(self.number, "propose")
        self._doubt = self._ask_for_doubt()
        state = self._pool_state()
        proposing = self.run.components.sampler.propose(state)
        proposal = proposing.result()
        self._took(propose=proposing.seconds)
        validate_proposal(proposal, state)
        proposal = replace(proposal, grounds=with_doubt(proposal, self._doubt))
        self.run.chosen(self.state, proposal)
        return proposal

    def label_and_pseudo_label(self, proposal: Proposal) -> Answered:
        """The oracle answers while self-training scores the rest; neither needs the other."""
        run, state = self.run, self.state
        run.events.stage(self.number, "label")
        cosines = run.components.learner.cosines(state.text, proposal.positions).result()
        labeling = run.components.oracle.label(self._label_request(proposal, cosines))
        training = run.self_training(self.number, state.text, self.unlabeled)
        scores = None if training is None else training.begin()
        response = labeling.result()
        self._took(label=labeling.seconds)
        logits = np.float32(state.text.logit_scale) * cosines
        after = _with_left(run, state, response).with_answers(proposal, logits, response, run.names)
        tell_corrections(run.events, state, after, run.names)
        pseudo, soft = PseudoLabels.empty(), None
        if training is not None:
            pseudo = training.finish(scores, after.known, after.asked[len(state.asked) :])
            soft = training.soft_labels(after.known)
            self._took(pseudo_label=training.seconds)
        return Answered(after, after.answers[len(after.asked) - len(proposal.positions) :], pseudo, soft)

    def learn(self, answered: Answered) -> LearnOutcome:
        """The student, from all labels and the pseudo-labels."""
        self.run.events.stage(self.number, "learn")
        request = learn_request(self.number, answered.state.known, answered.pseudo, answered.soft, self.state.text)
        request = replace(request, n_new=len(answered.rows))  # what was answered ahead is known, but not asked
        outcome, seconds = learn(self.run.components.learner, request, self.state.contexts)
        self._took(learn=seconds)
        return outcome

    def reward_and_update(self, proposal: Proposal, answered: Answered, outcome: LearnOutcome) -> Judged:
        """The sampler learns from the round, while the student is judged."""
        sampler, learner = self.run.components.sampler, self.run.components.learner
        rows = answered.rows
        feedback = Feedback(
            state=self._pool_state(),
            proposal=part_of(proposal, rows),
            labels=answered.new[rows],
            outcome=outcome,
            unlabeled_next=answered.state.unlabeled(self.run.n_pool),
            final=self._ends(answered.state),
        )
        self.run.events.stage(self.number, "update")
        # Where nobody could tell anything there is nothing to be rewarded for.
        observing = sampler.observe(feedback) if len(rows) else Done(Observation(), 0.0)
        evaluating = learner.evaluate(outcome.text)
        checking = learner.pseudo_label_precision(answered.pseudo)
        comparing = learner.agreement(self.state.text, outcome.text, self.run.stop_set)
        judged = Judged(observing.result(), evaluating.result(), checking.result(), comparing.result())
        reward = judged.observation.reward_seconds
        self._took(
            evaluate=evaluating.seconds + checking.seconds + comparing.seconds,
            reward=reward,
            update=max(0.0, observing.seconds - reward),
        )
        return judged

    def conclude(self, proposal: Proposal, answered: Answered, outcome: LearnOutcome, judged: Judged) -> Played:
        """The state after the round, with what its draws tell of the rounds before, and whether to stop."""
        state = replace(
            answered.state,
            text=outcome.text,
            contexts=outcome.contexts,
            pseudo=answered.pseudo,
            last=judged.evaluation,
            reports=(*answered.state.reports, self._report(proposal, answered, outcome, judged)),
        )
        if judged.observation.updates:
            state = replace(state, updates=(*state.updates, _updates_table(self.number, judged.observation)))
        state = self._estimated(state)
        expectation = expected_gain([report.predictions_changed for report in state.reports])
        report = replace(
            state.reports[-1],
            expected_gain=None if expectation is None else expectation.gain,
            seconds=self._seconds,
            wall_seconds=time.perf_counter() - self.started,
        )
        state = state.with_last_report(report)
        state = replace(state, stopped=why_stopped(self.run, state))
        return Played(state, outcome.warning, expectation, self._ends(state))

    def _estimated(self, state: RunState) -> RunState:
        """The round's draws judge the classifier that it began with; cross-fitting the one that it learned."""
        run, answers = self.run, self.run.answers(state)
        state = state.with_estimate(self.number - 1, estimate_before(answers, state.judged, self.number))
        if not state.judged.lines:
            return state
        started = time.perf_counter()
        judged = judge(run, self.number, state.judged, answers, state.unlabeled(run.n_pool))
        state = replace(state, judged=judged).with_estimate(self.number, estimate_after(answers, judged, self.number))
        self._took(evaluate=self._seconds.evaluate + time.perf_counter() - started)
        return state

    # -- what the steps are made of ------------------------------------------------------------------------------

    def _pool_state(self) -> PoolState:
        return PoolState(
            round=self.number,
            seed=self.run.config.runtime.seed,
            n_query=self._n_query,
            n_classes=len(self.run.names.classes),
            text=self.state.text,
            unlabeled=self.unlabeled,
            labeled=self.state.labeled,
            labels=self.state.labels,
            doubt=self._doubt,
        )

    def _ask_for_doubt(self) -> Float32Array | None:
        """What the posterior of the rounds before is unsure of; the pseudo-labeler still has it from the last one."""
        run, labeler = self.run, self.run.components.pseudo_labeler
        if labeler is None or not run.source.weighs_evidence or not len(self.state.labeled):
            return None
        return labeler.doubt(run.zero_shot, self.state.known).result()

    def _label_request(self, proposal: Proposal, cosines: Float32Array) -> LabelRequest:
        names, experiment = self.run.names, self.run.experiment_id
        sample_ids = names.named(proposal.positions)
        part = "" if len(sample_ids) == self._n_query else f"-{_digest(sample_ids)}"
        return LabelRequest(
            request_id=f"{request_id(experiment, self.number)}{part}",
            experiment=experiment,
            round=self.number,
            sample_ids=sample_ids,
            content_hashes=names.hashed(proposal.positions),
            **(self._suggestions(cosines) if self.run.config.labels.suggest_labels else {}),
            replaces=True,  # the pool may have changed since the round was asked first
        )

    def _suggestions(self, cosines: Float32Array) -> dict[str, list[Any]]:
        """What the classifier takes each image for, and how surely."""
        chances = softmax(np.float32(self.state.text.logit_scale) * cosines)
        names = [self.run.names.classes[c] for c in cosines.argmax(axis=1)]
        return {"suggestions": names, "confidence": [float(chance) for chance in chances.max(axis=1)]}

    def _report(self, proposal: Proposal, answered: Answered, outcome: LearnOutcome, judged: Judged) -> RoundReport:
        evaluation = judged.evaluation
        return RoundReport(
            round=self.number,
            labels_new=len(answered.rows),
            labels_unasked=answered.unasked,
            labels_total=len(answered.state.labeled),
            skipped=int((answered.new == SKIP).sum()),
            ignored=int((answered.new == IGNORE).sum()),
            pseudo_labels=len(answered.pseudo.positions),
            pseudo_label_precision=judged.precision,
            test_accuracy=None if evaluation is None else evaluation.accuracy,
            test_macro_accuracy=None if evaluation is None else evaluation.macro_accuracy,
            pool_accuracy_estimate=None,
            agreement=judged.agreement.kappa,
            predictions_changed=judged.agreement.changed,
            expected_gain=None,
            reward=known(judged.observation.reward),
            ms_indicator=known(proposal.ms_indicator),
            next_key=known(proposal.next_key),
            train_loss=known(outcome.train_loss),
            restarts=outcome.restarts,
            seconds=self._seconds,
            wall_seconds=0.0,
        )

    def _ends(self, state: RunState) -> bool:
        return self.number == self.run.config.labels.rounds or len(state.asked) == self.run.n_pool

    def _took(self, **seconds: float) -> None:
        self._seconds = replace(self._seconds, **seconds)


def why_stopped(run: RunContext, state: RunState) -> str:
    """Why no further round should follow by `--stop`, or an empty string.

    Of a restored state, too: what ended a run may have been taken back since.
    """
    if not state.reports:
        return ""
    report = state.reports[-1]
    known = report.pool_accuracy_estimate or recent_estimate(run.answers(state), report.round, WINDOW)
    evidence = Evidence(
        [item.agreement for item in state.reports],
        expected_gain([item.predictions_changed for item in state.reports]),
        None if known is None else known.low,
        run.n_query,
    )
    return reason_to_stop(run.rules, evidence)


def part_of(proposal: Proposal, rows: Int64Array) -> Proposal:
    """The `rows` (k,) sorted of a query set, with the chance draws that are among them."""
    if len(rows) == len(proposal.positions):
        return proposal
    n_audit = int((rows < proposal.n_audit).sum())
    return replace(
        proposal,
        positions=proposal.positions[rows],
        log_prob=proposal.log_prob[rows],
        n_audit=n_audit,
        grounds=None if proposal.grounds is None else proposal.grounds.at(rows),
    )


def with_doubt(proposal: Proposal, doubt: Float32Array | None) -> Grounds:
    """The grounds of a query set, with the posterior's `doubt` (n,) of its samples where there is a posterior."""
    grounds = proposal.grounds or Grounds.unknown(len(proposal.positions))
    return grounds if doubt is None else replace(grounds, doubt=doubt[proposal.positions].astype(np.float64))


def _digest(sample_ids: list[str]) -> str:
    """Names a part of a query set: after a kill, the round may be learned from more of it than before."""
    return hashlib.blake2b(json.dumps(sample_ids).encode(), digest_size=6).hexdigest()


def _updates_table(number: int, observation: Observation) -> pa.Table:
    length = len(next(iter(observation.updates.values())))
    columns = {"round": np.full(length, number, np.int32), "step": np.arange(length, dtype=np.int32)}
    return pa.table({**columns, **observation.updates})


def _with_left(run: RunContext, state: RunState, response: LabelResponse) -> RunState:
    """The state with what was answered unasked, or to an earlier query set: known, but drawn by no plan."""
    state = state.with_known_corrected(response, run.names)
    positions, labels, rounds = state.left_of(response, run.names)
    if not len(positions):
        return state
    tell_unasked(run.events, run.names.named(positions), rounds.tolist())
    came = ["earlier" if asked else "unasked" for asked in rounds.tolist()]
    return state.with_volunteered(positions, labels, run.logits(state, positions), response.labels_paid, came)
