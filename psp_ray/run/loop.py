"""The round loop: rounds one after the other, each a transaction that ends with its checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from psp_ray.config.config import Config
from psp_ray.core import interrupts
from psp_ray.core.records import Int32Array, Int64Array, LearnRequest, PseudoLabels
from psp_ray.core.words import counted
from psp_ray.labels.restore import KnownAnswers
from psp_ray.report.round_report import Next
from psp_ray.run.ahead import Ahead
from psp_ray.run.checkpoint import load_latest, save_checkpoint
from psp_ray.run.context import RunContext
from psp_ray.run.crossfitted import CrossFitted, Line
from psp_ray.run.folder import KEPT
from psp_ray.run.judging import folds_of
from psp_ray.run.round import Played, Round, why_stopped
from psp_ray.run.standing import prospect, setback
from psp_ray.run.state import RunState
from psp_ray.run.state_files import from_checkpoint, to_checkpoint

CHECKPOINTS = KEPT


@dataclass(frozen=True)
class InitialLabels:
    """Positions (k,) and classes (k,) that are known before the first round."""

    positions: Int64Array
    labels: Int32Array

    @classmethod
    def none(cls) -> InitialLabels:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int32))


class Experiment:
    """One run of R rounds over a pool.

    Args:
        context: settings, names, components, and who listens.
        out: the run's folder; checkpoints go to `out/checkpoints`.
        initial: what is known beforehand.
        on_saved: called when a round is safe in its checkpoint, and once when a run begins or is taken up again.
        ahead: answers that people gave before they were asked; they come in before a query set is chosen.
    """

    def __init__(
        self,
        context: RunContext,
        out: Path,
        initial: InitialLabels | None = None,
        on_saved: Callable[[RunState], None] = lambda state: None,
        ahead: Ahead | None = None,
    ):
        self.context, self.out = context, out
        self.ahead = ahead or Ahead()
        self.initial = initial or InitialLabels.none()
        self.on_saved = on_saved
        self.state: RunState | None = None
        """The state after the last round that is safe on disk; None before there is any."""
        self.started = time.perf_counter()
        self._earlier_seconds = 0.0

    def run(self) -> bool:
        """Run all rounds that are not in a checkpoint yet; false where a listener stopped it before the last one."""
        state = self.begin()
        if any(self.context.events.after_round(report) is Next.STOP for report in state.reports):
            return False
        while not self.over:
            interrupts.check()
            turn = self.next_round()
            state = self.keep(turn, turn.play())
            if self.context.events.after_round(state.reports[-1]) is Next.STOP:
                return False
        return True

    # -- step by step: `begin`, then `next_round` and `keep` until it is over ---------------------------------------

    def begin(self) -> RunState:
        """The state to go on from: that of the newest checkpoint, or before the first round."""
        state = self.state = self._restore() or self._begin()
        self._earlier_seconds = state.wall_seconds
        self.on_saved(state)
        return state

    @property
    def over(self) -> bool:
        """Whether no round is left."""
        return bool(self.why_over)

    @property
    def exhausted(self) -> bool:
        """Whether every image of the pool was asked about."""
        return len(self._now().asked) == self.context.n_pool

    @property
    def why_over(self) -> str:
        """Why no round is left: a criterion has ended the run, every image was asked about, or all rounds are done; ""
        while there is one."""
        state = self._now()
        if state.stopped:
            return state.stopped
        if self.exhausted:
            return "every image of the pool was asked about"
        return "all its rounds are done" if state.round >= self.context.config.labels.rounds else ""

    def next_round(self, n_query: int | None = None) -> Round:
        """The round that follows, over a query set of `n_query` (default: as the settings say)."""
        state = self._now()
        return Round(self.context, self.ahead.take(self.context, state), state.round + 1, n_query)

    def keep(self, turn: Round, played: Played) -> RunState:
        """Make a played round safe, and tell of it; returns the state after it."""
        state = self.state = self._save(played.state, turn.started)
        self.on_saved(state)
        self._tell(played, state)
        return state

    def change(self, config: Config) -> RunContext:
        """Go on under other settings; returns the new context. A run without stopping rules was stopped by none."""
        self.context = replace(self.context, config=config)
        if self.state is not None and not self.context.rules:
            self.state = replace(self.state, stopped="")
        return self.context

    def _now(self) -> RunState:
        if self.state is None:
            raise RuntimeError("the experiment has not begun")
        return self.state

    @property
    def wall_seconds(self) -> float:
        """Seconds the run has taken, those before it was taken up again included."""
        return self._earlier_seconds + time.perf_counter() - self.started

    def _begin(self) -> RunState:
        learner, events = self.context.components.learner, self.context.events
        text = self.context.zero_shot
        zero_shot = learner.evaluate(text).result()
        events.zero_shot(zero_shot)
        positions, labels = self.initial.positions, self.initial.labels
        folds = folds_of(self.context.config, tested=zero_shot is not None)
        state = RunState.before_rounds(text, zero_shot, positions, labels, folds)
        if not len(positions):
            return state
        # The first query set should already profit from what is known.
        request = LearnRequest(0, positions, labels, 0, PseudoLabels.empty(), text)
        outcome = learner.learn(request).result()
        evaluation = learner.evaluate(outcome.text).result()
        events.initial(len(positions), evaluation)
        # Nobody drew the initial labels, so none of them judges, and every fold may know them all.
        judged = CrossFitted.start(folds, Line(outcome.text, learner.state_dict().result()))
        return replace(state, text=outcome.text, contexts=outcome.contexts, last=evaluation, judged=judged)

    def _save(self, state: RunState, round_started: float) -> RunState:
        """Write the checkpoint; returns the same state with the time that this took."""
        context = self.context
        context.events.stage(state.round, "checkpoint")
        started = time.perf_counter()
        sampler = context.components.sampler.state_dict().result()
        learner = context.components.learner.state_dict().result()
        state = replace(state, wall_seconds=self.wall_seconds)
        checkpoint = to_checkpoint(state, context.names, context.experiment_id, sampler, learner)
        save_checkpoint(self.out / CHECKPOINTS, checkpoint)
        now, report = time.perf_counter(), state.reports[-1]
        seconds = replace(report.seconds, checkpoint=now - started)
        return state.with_last_report(replace(report, seconds=seconds, wall_seconds=now - round_started))

    def _restore(self) -> RunState | None:
        checkpoint = load_latest(self.out / CHECKPOINTS, self.context.events.warn)
        if checkpoint is None:
            return None
        restored = from_checkpoint(checkpoint, self.context.names, self.out)
        state = restored.state
        if restored.more_classes:
            state = _learned_anew(self.context, state)
        state = replace(state, stopped=why_stopped(self.context, state))  # `--stop` may be another one now
        if restored.moved:
            self.context.events.warn(
                f"the pool changed since round {state.round}: {restored.change}. What was learned is kept; the "
                "strategy begins anew"
            )
        elif not restored.more_classes:  # what a strategy remembers is about positions in the pool, and the classes
            self.context.components.sampler.load_state_dict(checkpoint.tensors["sampler"]).result()
        if not restored.more_classes:
            self.context.components.learner.load_state_dict(checkpoint.tensors["learner"]).result()
        self._mend_ledger(state)
        self.context.events.restored(state.reports, state.zero_shot)
        return state

    def _mend_ledger(self, state: RunState) -> None:
        """A ledger that lost labels of this run (missing, older, emptied) gets them back from the checkpoint."""
        rows = np.flatnonzero(state.asked_in > 0)
        if not len(rows):
            return
        names, asked = self.context.names, state.asked[rows]
        known = KnownAnswers(
            self.context.experiment_id,
            names.named(asked),
            names.hashed(asked),
            state.asked_in[rows],
            state.answers[rows],
            state.labels_paid,
        )
        repair = self.context.components.oracle.restore(known).result()
        if repair.restored:
            self.context.events.warn(
                f"ledger {repair.ledger}: lacked {counted(repair.restored, 'answer')} that the checkpoints know (is it "
                f"another one, older, or emptied?); now in it again, {repair.paid:,} as paid by this run"
            )
        if repair.differing:
            self.context.events.warn(
                f"ledger {repair.ledger}: says otherwise than the checkpoints of "
                f"{counted(len(repair.differing), 'sample')}, "
                f"without a correction ({repair.differing[0]}); the run keeps what it was told, see `psp-ray oracle "
                "check`"
            )

    def _tell(self, played: Played, state: RunState) -> None:
        events, report = self.context.events, state.reports[-1]
        judged = state.reports[-2].pool_accuracy_estimate if state.round > 1 else state.zero_shot_estimate
        events.round(report, warning=played.warning)
        against = setback(state, self.context.config.data.evaluate_on)
        text = "" if played.ends else prospect(self.context, state, played.expectation, against)
        events.prospect(report, judged, text)
        if state.stopped and not played.ends:
            events.note(f"stopping: {state.stopped}")


def _learned_anew(context: RunContext, state: RunState) -> RunState:
    """`state` with a classifier of all the classes that there are now, from all labels, as if they were initial ones.
    What judges it must not have seen them, so the folds begin with zero-shot."""
    learner, text = context.components.learner, context.zero_shot
    judged = replace(state.judged, lines=(Line(text),) * len(state.judged.lines))
    state = replace(state, text=text, contexts=np.zeros((0, 0), np.float32), judged=judged)
    if len(state.labeled):
        request = LearnRequest(state.round, state.labeled, state.labels, 0, PseudoLabels.empty(), text)
        outcome = learner.learn(request).result()
        state = replace(state, text=outcome.text, contexts=outcome.contexts)
    return replace(state, last=learner.evaluate(state.text).result())
