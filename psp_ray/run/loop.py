"""The round loop: propose -> (label || pseudo-label) -> learn -> reward -> update -> checkpoint -> report.

It holds no mathematics and doesn't know whether the components live in this process or in Ray actors. A round is a
transaction: whatever happens before its checkpoint is repeated identically after a restart (noise depends on the
seed and the round alone, the oracle answers a repeated request without buying again).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from psp_ray.acquisition.base import validate_proposal
from psp_ray.config.config import Config
from psp_ray.core import noise
from psp_ray.core.answers import IGNORE, SKIP
from psp_ray.core.errors import OutputError
from psp_ray.core.records import (
    Evaluation,
    Feedback,
    Float32Array,
    Float64Array,
    Int32Array,
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
from psp_ray.labels.service import LabelRequest, LabelResponse
from psp_ray.posterior.accuracy import recent_estimate
from psp_ray.posterior.audit import Answers, BoolArray, audit_order
from psp_ray.report.progress import Reporter
from psp_ray.run.checkpoint import Checkpoint, load_latest, save_checkpoint
from psp_ray.run.interfaces import Crew, Done
from psp_ray.run.judging import Judged, estimate_after, estimate_before, folds_of, judge
from psp_ray.run.stopping import WINDOW, Expectation, expected_gain, outlook, parse_stop, reason_to_stop, stop_set

STAGES = ("propose", "label", "pseudo_label", "learn", "evaluate", "reward", "update", "checkpoint")


@dataclass(frozen=True)
class PoolNames:
    """Names of the pool's samples in manifest order, and the classes."""

    sample_ids: list[str]
    content_hashes: list[str]
    classes: list[str]

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of all names, contents and classes in order: positions in checkpoints mean nothing without it."""
        digest = hashlib.blake2b(digest_size=16)
        for name, content in zip(self.sample_ids, self.content_hashes, strict=True):
            digest.update(f"{len(name)} {name} {content}\n".encode())
        digest.update("\n".join(self.classes).encode())
        return digest.hexdigest()


@dataclass
class RunState:
    """What one round hands to the next.

    `asked` (m,) positions in the order asked, `answers` (m,) what the annotator said (a class, SKIP or IGNORE, after
    corrections), `log_prob` (m,) of their selection, `asked_in` (m,) their rounds (0: initial labels), `by_chance` (m,)
    whether the audit drew them, `cosines` (m, C) to the prompts of the round's teacher, which had not seen the answer.
    Initial labels have NaN for `log_prob` and `cosines`.
    """

    text: TextState
    zero_shot: Evaluation
    asked: Int64Array
    answers: Int32Array
    log_prob: Float64Array
    asked_in: Int32Array
    by_chance: BoolArray
    cosines: Float32Array
    judged: Judged
    contexts: Float32Array
    pseudo: PseudoLabels = field(default_factory=PseudoLabels.empty)
    last: Evaluation | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    updates: list[pa.Table] = field(default_factory=list)
    labels_paid: int = 0
    zero_shot_estimate: dict[str, float] | None = None
    stopped: str = ""
    """Why the run ended before its last round; empty where it didn't."""
    wall_seconds: float = 0.0

    @property
    def round(self) -> int:
        """Rounds finished."""
        return len(self.rows)

    @property
    def has_class(self) -> Any:
        """Which of `asked` (m,) bool were given a class."""
        return self.answers >= 0

    @property
    def labeled(self) -> Int64Array:
        """Positions with a class, in the order asked."""
        return self.asked[self.has_class]

    @property
    def labels(self) -> Int32Array:
        """The classes of `labeled`."""
        return self.answers[self.has_class]

    @property
    def labels_used(self) -> int:
        """Answers of the oracle but for skips: what rounds, curves and caps count. Initial labels are not in it."""
        return int(((self.answers != SKIP) & (self.asked_in > 0)).sum())


class Experiment:
    """One run of R rounds over a pool.

    Args:
        config: resolved settings, with `labels_per_round` filled in.
        names: the pool's samples and classes.
        crew: handles of the components.
        out: the run's folder; checkpoints go to `out/checkpoints`.
        experiment_id: the run's name in the ledger, kept across restarts.
        reporter: told of every stage and round.
        initial: positions (k,) and classes (k,) that are known before the first round.
    """

    def __init__(
        self,
        config: Config,
        names: PoolNames,
        crew: Crew,
        out: Path,
        experiment_id: str,
        reporter: Reporter,
        initial: tuple[Int64Array, Int32Array] | None = None,
    ):
        assert isinstance(config.labels.labels_per_round, int)
        self.initial = initial or (np.zeros(0, np.int64), np.zeros(0, np.int32))
        self.config, self.names, self.crew, self.out = config, names, crew, out
        self.experiment_id, self.reporter = experiment_id, reporter
        self.n_query = config.labels.labels_per_round
        self._audit_order = audit_order(config.runtime.seed, noise.sample_keys(names.sample_ids))
        self._criteria = parse_stop(config.labels.stop)
        self._stop_set = stop_set(names.sample_ids, config.runtime.seed)
        self.checkpoints = out / "checkpoints"
        self.state: RunState | None = None
        self.started = time.perf_counter()
        self.on_round: Callable[[RunState], None] = lambda state: None
        """Called when a round is safe in its checkpoint, and once when a run is taken up again."""
        self._earlier_seconds = 0.0

    # -- the whole run -------------------------------------------------------------------------------------------

    def run(self) -> RunState:
        """Run all rounds that are not in a checkpoint yet; returns the state after the last one."""
        state = self._restore() or self._begin()
        self.state = state
        self.on_round(state)
        self._earlier_seconds = state.wall_seconds
        for number in range(state.round + 1, self.config.labels.rounds + 1):
            if state.stopped or not len(self._unlabeled(state.asked)):
                break
            self._run_round(state, number)
        return state

    @property
    def wall_seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self.started

    def _begin(self) -> RunState:
        text: TextState = self.crew.learner.submit("zero_shot").result()
        zero_shot: Evaluation = self.crew.learner.submit("evaluate", text).result()
        self.reporter.zero_shot(zero_shot)
        positions, labels = self.initial
        state = RunState(
            text=text,
            zero_shot=zero_shot,
            asked=positions,
            answers=labels,
            log_prob=np.full(len(positions), np.nan),
            asked_in=np.zeros(len(positions), np.int32),
            by_chance=np.zeros(len(positions), bool),
            cosines=np.full((len(positions), len(self.names.classes)), np.nan, np.float32),
            judged=Judged.start(folds_of(self.config, zero_shot.n > 0), text),
            contexts=np.zeros((0, 0), np.float32),
        )
        if len(positions):
            # The first query set should already profit from what is known.
            request = LearnRequest(0, positions, labels, 0, PseudoLabels.empty(), text)
            outcome: LearnOutcome = self.crew.learner.submit("learn", request).result()
            state.text, state.contexts = outcome.text, outcome.contexts
            evaluation = self.crew.learner.submit("evaluate", outcome.text).result()
            state.last = evaluation
            self.reporter.initial(len(positions), evaluation)
        return state

    # -- one round -----------------------------------------------------------------------------------------------

    def _run_round(self, state: RunState, number: int) -> None:
        config, crew, reporter = self.config, self.crew, self.reporter
        seconds = dict.fromkeys(STAGES, 0.0)
        started = time.perf_counter()
        unlabeled = self._unlabeled(state.asked)
        pool_state = PoolState(
            round=number,
            seed=config.runtime.seed,
            n_query=min(self.n_query, len(unlabeled)),
            n_classes=len(self.names.classes),
            text=state.text,
            unlabeled=unlabeled,
            labeled=state.labeled,
            labels=state.labels,
        )
        reporter.stage(number, "propose")
        proposing = crew.sampler.submit("propose", pool_state)
        proposal: Proposal = proposing.result()
        seconds["propose"] = proposing.seconds
        validate_proposal(proposal, pool_state)

        response, pseudo, cosines = self._label_and_pseudo_label(state, number, unlabeled, proposal, seconds)
        asked, answers = self._with_answers(state, proposal, response)
        known = answers >= 0
        new = answers[len(state.asked) :]
        answered = np.flatnonzero(new >= 0)

        reporter.stage(number, "learn")
        request = LearnRequest(
            round=number,
            labeled=asked[known],
            labels=answers[known],
            n_new=len(answered),
            pseudo=pseudo,
            teacher=state.text,
        )
        outcome = self._learn(state, request, seconds)

        unlabeled_next = np.setdiff1d(unlabeled, proposal.positions, assume_unique=True)
        final = number == config.labels.rounds or len(unlabeled_next) == 0
        feedback = Feedback(
            state=pool_state,
            proposal=_part_of(proposal, answered),
            labels=new[answered],
            outcome=outcome,
            unlabeled_next=unlabeled_next,
            final=final,
        )
        reporter.stage(number, "update")
        # Where nobody could tell anything there is nothing to be rewarded for.
        observing = crew.sampler.submit("observe", feedback) if len(answered) else Done(Observation(), 0.0)
        evaluating = crew.learner.submit("evaluate", outcome.text)
        checking = crew.learner.submit("pseudo_label_precision", pseudo)
        comparing = crew.learner.submit("agreement", state.text, outcome.text, self._stop_set)
        evaluation: Evaluation = evaluating.result()
        precision: float = checking.result()
        kappa, changed = comparing.result()
        observation: Observation = observing.result()
        seconds["evaluate"] = evaluating.seconds + checking.seconds + comparing.seconds
        seconds["reward"] = observation.reward_seconds
        seconds["update"] = max(0.0, observing.seconds - observation.reward_seconds)

        state.text, state.contexts, state.pseudo, state.last = (
            outcome.text,
            outcome.contexts,
            pseudo,
            evaluation,
        )
        state.asked, state.answers = asked, answers
        state.log_prob = np.concatenate([state.log_prob, proposal.log_prob])
        state.asked_in = np.concatenate([state.asked_in, np.full(len(proposal.positions), number, np.int32)])
        by_chance = np.arange(len(proposal.positions)) < proposal.n_audit
        state.by_chance = np.concatenate([state.by_chance, by_chance])
        state.cosines = np.concatenate([state.cosines, cosines])
        state.labels_paid = response.labels_paid
        if observation.updates:
            state.updates.append(_updates_table(number, observation))
        row = {
            "round": number,
            "labels_new": len(answered),
            "labels_total": int(known.sum()),
            "skipped": int((new == SKIP).sum()),
            "ignored": int((new == IGNORE).sum()),
            "pseudo_labels": len(pseudo.positions),
            "pseudo_label_precision": precision,
            "test_accuracy": evaluation.accuracy,
            "test_macro_accuracy": evaluation.macro_accuracy,
            "pool_accuracy_estimate": None,
            "agreement": kappa,
            "predictions_changed": changed,
            "expected_gain": None,
            "reward": observation.reward,
            "ms_indicator": proposal.ms_indicator,
            "next_key": proposal.next_key,
            "train_loss": outcome.train_loss,
            "restarts": outcome.restarts,
            "seconds": seconds,
            "wall_seconds": 0.0,
        }
        state.rows.append(row)
        self._estimate(state, unlabeled_next, seconds)
        hope = self._look_ahead(state)
        reporter.stage(number, "checkpoint")
        row["wall_seconds"] = time.perf_counter() - started  # for the checkpoint, which can't time itself
        with _timed(seconds, "checkpoint"):
            self._save(state)
        row["wall_seconds"] = time.perf_counter() - started
        self.on_round(state)
        judged = state.rows[-2]["pool_accuracy_estimate"] if number > 1 else state.zero_shot_estimate
        ends = number == config.labels.rounds or len(unlabeled_next) == 0
        reporter.round(row, warning=outcome.warning)
        reporter.prospect(row, judged, "" if ends else outlook(hope, changed, self.n_query))
        if state.stopped and not ends:
            reporter.note(f"stopping: {state.stopped}")

    def _look_ahead(self, state: RunState) -> Expectation | None:
        """What the next round should bring, and whether a criterion of `--stop` is met."""
        hope = expected_gain([row["predictions_changed"] for row in state.rows])
        state.rows[-1]["expected_gain"] = None if hope is None else hope.gain
        recent = recent_estimate(self.answers(state), state.round, WINDOW)
        least = None if recent is None else recent.low
        if state.rows[-1]["pool_accuracy_estimate"] is not None:
            least = state.rows[-1]["pool_accuracy_estimate"]["low"]
        state.stopped = reason_to_stop(self._criteria, state.rows, hope, least, self.n_query)
        return hope

    def answers(self, state: RunState) -> Answers:
        """What estimates of the accuracy are made of."""
        order = self._audit_order[state.asked]
        return Answers(state.asked, state.answers, state.asked_in, state.by_chance, order, state.cosines)

    def _with_answers(
        self, state: RunState, proposal: Proposal, response: LabelResponse
    ) -> tuple[Int64Array, Int32Array]:
        """Everything asked so far and the answers, with corrections of earlier ones; they reach learning now."""
        asked = np.concatenate([state.asked, proposal.positions])
        answers = np.concatenate([state.answers, response.labels.astype(np.int32)])
        if response.corrected_ids:
            now = dict(zip(response.corrected_ids, response.corrected_labels.tolist(), strict=True))
            for row, position in enumerate(asked.tolist()):
                answers[row] = now.get(self.names.sample_ids[position], answers[row])
        return asked, answers

    def _learn(self, state: RunState, request: LearnRequest, seconds: dict[str, float]) -> LearnOutcome:
        """The student; the teacher stays where there is nothing yet to learn from."""
        if len(request.labeled) + len(request.pseudo.positions) == 0:
            none = np.zeros(0, np.float32)
            warning = "no label to learn from yet: the prompts stay as they are"
            return LearnOutcome(state.text, state.contexts, none, none, none, none, float("nan"), 0, 0, warning)
        learning = self.crew.learner.submit("learn", request)
        outcome: LearnOutcome = learning.result()
        seconds["learn"] = learning.seconds
        return outcome

    def _estimate(self, state: RunState, unlabeled: Int64Array, seconds: dict[str, float]) -> None:
        """The round's draws judge the prompts it began with; cross-fitting those that it learned."""
        answers, number = self.answers(state), state.round
        before = estimate_before(answers, state.judged, number)
        known = None if before is None else before.as_dict()
        if number > 1:
            state.rows[-2]["pool_accuracy_estimate"] = known
        elif not len(self.initial[0]):
            state.zero_shot_estimate = known
        if not state.judged.lines:
            return
        self.reporter.stage(number, "judge")
        start = time.perf_counter()

        def learn(request: LearnRequest) -> LearnOutcome:
            return self._learn(replace(state, text=request.teacher), request, {})

        state.judged = judge(state.judged, answers, number, unlabeled, self.crew, learn)
        after = estimate_after(answers, state.judged, number)
        state.rows[-1]["pool_accuracy_estimate"] = None if after is None else after.as_dict()
        seconds["evaluate"] += time.perf_counter() - start

    def _label_and_pseudo_label(
        self,
        state: RunState,
        number: int,
        unlabeled: Int64Array,
        proposal: Proposal,
        seconds: dict[str, float],
    ) -> tuple[LabelResponse, PseudoLabels, Float32Array]:
        """The oracle answers while self-training labels the rest; neither needs the other.

        The third result are the query set's cosines (n_s, C) to the teacher's prompts.
        """
        self.reporter.stage(number, "label")
        cosines: Float32Array = self.crew.learner.submit("cosines", state.text, proposal.positions).result()
        suggested = [self.names.classes[c] for c in cosines.argmax(axis=1)] if self.config.labels.suggest_labels else []
        request = LabelRequest(
            request_id=f"{self.experiment_id}/round-{number:03d}",
            experiment=self.experiment_id,
            round=number,
            sample_ids=[self.names.sample_ids[i] for i in proposal.positions],
            content_hashes=[self.names.content_hashes[i] for i in proposal.positions],
            suggestions=suggested,
        )
        labeling = self.crew.oracle.submit("label", request)
        scoring = None
        if self.crew.pseudo_labeler is not None:
            # Every unlabeled sample is scored while the oracle works; the query set is dropped afterwards, and what
            # it taught may have a say in which pseudo-labels are kept.
            self._encode_views(state, number, unlabeled, None, state.labeled, state.labels, seconds)
            scoring = self.crew.pseudo_labeler.submit(
                "label", state.text, unlabeled, number, state.labeled, state.labels
            )
            scoring.result()
        response: LabelResponse = labeling.result()
        seconds["label"] = labeling.seconds
        if self.crew.pseudo_labeler is None or scoring is None:
            return response, PseudoLabels.empty(), cosines
        asked, answers = self._with_answers(state, proposal, response)
        known = answers >= 0
        self._encode_views(state, number, unlabeled, proposal.positions, asked[known], answers[known], seconds)
        choosing = self.crew.pseudo_labeler.submit("drop", proposal.positions, number, asked[known], answers[known])
        pseudo: PseudoLabels = choosing.result()
        seconds["pseudo_label"] += scoring.seconds + choosing.seconds
        return response, pseudo, cosines

    def _encode_views(
        self,
        state: RunState,
        number: int,
        unlabeled: Int64Array,
        bought: Int64Array | None,
        labeled: Int64Array,
        labels: Int32Array,
        seconds: dict[str, float],
    ) -> None:
        """Views on demand, a portion at a time: it may take long, and what is encoded is kept."""
        if self.config.model.view_mode != "on-demand" or self.crew.pseudo_labeler is None:
            return
        done, left, started = 0, 1, time.perf_counter()
        while left:
            encoding = self.crew.pseudo_labeler.submit(
                "encode_views", state.text, unlabeled, bought, number, labeled, labels
            )
            now, left = encoding.result()
            seconds["pseudo_label"] += encoding.seconds
            done += now
            if left:
                self.reporter.views(number, done, done + left, time.perf_counter() - started)

    def _unlabeled(self, asked: Int64Array) -> Int64Array:
        keep = np.ones(len(self.names.sample_ids), bool)
        keep[asked] = False
        return np.flatnonzero(keep).astype(np.int64)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def _save(self, state: RunState) -> None:
        sampler: StateDict = self.crew.sampler.submit("state_dict").result()
        learner: StateDict = self.crew.learner.submit("state_dict").result()
        state.wall_seconds = self.wall_seconds
        prompt: StateDict = {
            "text_features": state.text.features,
            "logit_scale": np.asarray(state.text.logit_scale, np.float64),
            "contexts": state.contexts,
            "cosines": state.cosines,
        }
        tables = {
            "labels": pa.table(
                {
                    "position": state.asked,
                    "label": state.answers,
                    "log_prob": state.log_prob,
                    "round": state.asked_in,
                    "by_chance": state.by_chance,
                }
            ),
            "pseudo": pa.table(
                {
                    "position": state.pseudo.positions,
                    "label": state.pseudo.labels,
                    "confidence": state.pseudo.confidence,
                    "uncertainty": state.pseudo.uncertainty,
                }
            ),
        }
        if state.updates:
            tables["policy"] = pa.concat_tables(state.updates, promote_options="default")
        record = {
            "experiment_id": self.experiment_id,
            "zero_shot": vars(state.zero_shot),
            "last": vars(state.last) if state.last else None,
            "rows": state.rows,
            "labels_paid": state.labels_paid,
            "zero_shot_estimate": state.zero_shot_estimate,
            "stopped": state.stopped,
            "wall_seconds": state.wall_seconds,
            "n_pool": len(self.names.sample_ids),
            "pool": self.names.fingerprint,
        }
        tensors: dict[str, StateDict] = {"sampler": sampler, "learner": learner, "prompt": prompt}
        tensors["judged"] = state.judged.state_dict()
        save_checkpoint(self.checkpoints, Checkpoint(state.round, record, tensors, tables))

    def _restore(self) -> RunState | None:
        checkpoint = load_latest(self.checkpoints)
        if checkpoint is None:
            return None
        record, tables = checkpoint.state, checkpoint.tables
        if record["n_pool"] != len(self.names.sample_ids):
            raise OutputError(
                f"{self.out}: the checkpoint saw {record['n_pool']} pool images, now there are "
                f"{len(self.names.sample_ids)}; restore the data or start in a new --out folder"
            )
        if record.get("pool", self.names.fingerprint) != self.names.fingerprint:
            raise OutputError(
                f"{self.out}: images or classes of the pool are not those that the checkpoint knows (renamed, replaced "
                "or changed files?); restore them, or start in a new --out folder with --initial-labels"
            )
        self.crew.sampler.submit("load_state_dict", checkpoint.tensors["sampler"]).result()
        self.crew.learner.submit("load_state_dict", checkpoint.tensors["learner"]).result()
        prompt, labels, pseudo = checkpoint.tensors["prompt"], tables["labels"], tables["pseudo"]
        state = RunState(
            text=TextState(prompt["text_features"], float(prompt["logit_scale"])),
            zero_shot=_evaluation(record["zero_shot"]),
            asked=labels["position"].to_numpy(),
            answers=labels["label"].to_numpy(),
            log_prob=labels["log_prob"].to_numpy(),
            asked_in=labels["round"].to_numpy(),
            by_chance=labels["by_chance"].to_numpy(zero_copy_only=False),
            cosines=prompt["cosines"],
            judged=Judged.restored(checkpoint.tensors["judged"]),
            contexts=prompt["contexts"],
            pseudo=PseudoLabels(
                pseudo["position"].to_numpy(),
                pseudo["label"].to_numpy(),
                pseudo["confidence"].to_numpy(),
                pseudo["uncertainty"].to_numpy(),
            ),
            last=_evaluation(record["last"]),
            rows=[{key: _number(key, value) for key, value in row.items()} for row in record["rows"]],
            updates=[tables["policy"]] if "policy" in tables else [],
            labels_paid=record["labels_paid"],
            zero_shot_estimate=record["zero_shot_estimate"],
            stopped=record["stopped"],
            wall_seconds=record["wall_seconds"],
        )
        self.reporter.restored(state.rows, state.zero_shot)
        return state


def _number(key: str, value: Any) -> Any:
    if value is None and key not in ("pool_accuracy_estimate", "expected_gain"):
        return float("nan")  # JSON has no NaN: it was stored as null
    return value


def _evaluation(stored: dict[str, Any]) -> Evaluation:
    return Evaluation(**{key: _number(key, value) for key, value in stored.items()})


def _part_of(proposal: Proposal, rows: Int64Array) -> Proposal:
    """What of a query set was given a class."""
    if len(rows) == len(proposal.positions):
        return proposal
    return replace(proposal, positions=proposal.positions[rows], log_prob=proposal.log_prob[rows])


def _updates_table(number: int, observation: Observation) -> pa.Table:
    length = len(next(iter(observation.updates.values())))
    columns: dict[str, Any] = {
        "round": np.full(length, number, np.int32),
        "step": np.arange(length, dtype=np.int32),
    }
    return pa.table({**columns, **observation.updates})


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
