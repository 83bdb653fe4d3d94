"""The round loop: propose -> (label || pseudo-label) -> learn -> reward -> update -> checkpoint -> report.

It holds no mathematics and doesn't know whether the components live in this process or in Ray actors. A round is a
transaction: whatever happens before its checkpoint is repeated identically after a restart (noise depends on the
seed and the round alone, the oracle answers a repeated request without buying again).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from psp_ray.acquisition.base import validate_proposal
from psp_ray.checkpoint import Checkpoint, load_latest, save_checkpoint
from psp_ray.config import Config
from psp_ray.crew import Crew
from psp_ray.errors import OutputError
from psp_ray.oracle.service import LabelRequest, LabelResponse
from psp_ray.records import (
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
from psp_ray.report.progress import Reporter

STAGES = ("propose", "label", "pseudo_label", "learn", "evaluate", "reward", "update", "checkpoint")


@dataclass(frozen=True)
class PoolNames:
    """Names of the pool's samples in manifest order, and the classes."""

    sample_ids: list[str]
    content_hashes: list[str]
    classes: list[str]


@dataclass
class RunState:
    """What one round hands to the next; `labeled`, `labels`, `log_prob` and `bought_in` are in the order bought."""

    text: TextState
    zero_shot: Evaluation
    labeled: Int64Array
    labels: Int32Array
    log_prob: Float64Array
    bought_in: Int32Array
    contexts: Float32Array
    pseudo: PseudoLabels = field(default_factory=PseudoLabels.empty)
    last: Evaluation | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    updates: list[pa.Table] = field(default_factory=list)
    labels_paid: int = 0
    wall_seconds: float = 0.0

    @property
    def round(self) -> int:
        """Rounds finished."""
        return len(self.rows)


class Experiment:
    """One run of R rounds over a pool.

    Args:
        config: resolved settings, with `labels_per_round` filled in.
        names: the pool's samples and classes.
        crew: handles of the components.
        out: the run's folder; checkpoints go to `out/checkpoints`.
        experiment_id: the run's name in the ledger, kept across restarts.
        reporter: told of every stage and round.
    """

    def __init__(self, config: Config, names: PoolNames, crew: Crew, out: Path, experiment_id: str, reporter: Reporter):
        assert isinstance(config.labels_per_round, int)
        self.config, self.names, self.crew, self.out = config, names, crew, out
        self.experiment_id, self.reporter = experiment_id, reporter
        self.n_query = config.labels_per_round
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
        for number in range(state.round + 1, self.config.rounds + 1):
            self._run_round(state, number)
        return state

    @property
    def wall_seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self.started

    def _begin(self) -> RunState:
        text: TextState = self.crew.learner.submit("zero_shot").result()
        zero_shot: Evaluation = self.crew.learner.submit("evaluate", text).result()
        self.reporter.zero_shot(zero_shot)
        return RunState(
            text=text,
            zero_shot=zero_shot,
            labeled=np.zeros(0, np.int64),
            labels=np.zeros(0, np.int32),
            log_prob=np.zeros(0, np.float64),
            bought_in=np.zeros(0, np.int32),
            contexts=np.zeros((0, 0), np.float32),
        )

    # -- one round -----------------------------------------------------------------------------------------------

    def _run_round(self, state: RunState, number: int) -> None:
        config, crew, reporter = self.config, self.crew, self.reporter
        seconds = dict.fromkeys(STAGES, 0.0)
        started = time.perf_counter()
        unlabeled = self._unlabeled(state.labeled)
        pool_state = PoolState(
            round=number,
            seed=config.seed,
            n_query=self.n_query,
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

        response, pseudo = self._label_and_pseudo_label(state, number, unlabeled, proposal, seconds)
        labels_total = np.concatenate([state.labels, response.labels.astype(np.int32)])
        labeled_total = np.concatenate([state.labeled, proposal.positions])

        reporter.stage(number, "learn")
        request = LearnRequest(
            round=number,
            labeled=labeled_total,
            labels=labels_total,
            n_new=len(proposal.positions),
            pseudo=pseudo,
            teacher=state.text,
        )
        learning = crew.learner.submit("learn", request)
        outcome: LearnOutcome = learning.result()
        seconds["learn"] = learning.seconds

        unlabeled_next = np.setdiff1d(unlabeled, proposal.positions, assume_unique=True)
        feedback = Feedback(
            state=pool_state,
            proposal=proposal,
            labels=response.labels.astype(np.int32),
            outcome=outcome,
            unlabeled_next=unlabeled_next,
            final=number == config.rounds or len(unlabeled_next) == 0,
        )
        reporter.stage(number, "update")
        observing = crew.sampler.submit("observe", feedback)
        evaluating = crew.learner.submit("evaluate", outcome.text)
        checking = crew.learner.submit("pseudo_label_precision", pseudo)
        evaluation: Evaluation = evaluating.result()
        precision: float = checking.result()
        observation: Observation = observing.result()
        seconds["evaluate"] = evaluating.seconds + checking.seconds
        seconds["reward"] = observation.reward_seconds
        seconds["update"] = max(0.0, observing.seconds - observation.reward_seconds)

        state.text, state.contexts, state.pseudo, state.last = (
            outcome.text,
            outcome.contexts,
            pseudo,
            evaluation,
        )
        state.labeled, state.labels = labeled_total, labels_total
        state.log_prob = np.concatenate([state.log_prob, proposal.log_prob])
        state.bought_in = np.concatenate([state.bought_in, np.full(len(proposal.positions), number, np.int32)])
        state.labels_paid = response.labels_paid
        if observation.updates:
            state.updates.append(_updates_table(number, observation))
        row = {
            "round": number,
            "labels_new": len(proposal.positions),
            "labels_total": len(labeled_total),
            "pseudo_labels": len(pseudo.positions),
            "pseudo_label_precision": precision,
            "test_accuracy": evaluation.accuracy,
            "test_macro_accuracy": evaluation.macro_accuracy,
            "reward": observation.reward,
            "ms_indicator": proposal.ms_indicator,
            "train_loss": outcome.train_loss,
            "restarts": outcome.restarts,
            "seconds": seconds,
            "wall_seconds": 0.0,
        }
        state.rows.append(row)
        reporter.stage(number, "checkpoint")
        with _timed(seconds, "checkpoint"):
            self._save(state)
        self.on_round(state)
        row["wall_seconds"] = time.perf_counter() - started
        reporter.round(row, warning=outcome.warning)

    def _label_and_pseudo_label(
        self,
        state: RunState,
        number: int,
        unlabeled: Int64Array,
        proposal: Proposal,
        seconds: dict[str, float],
    ) -> tuple[LabelResponse, PseudoLabels]:
        """The oracle answers while self-training labels the rest; neither needs the other."""
        self.reporter.stage(number, "label")
        request = LabelRequest(
            request_id=f"{self.experiment_id}/round-{number:03d}",
            experiment=self.experiment_id,
            round=number,
            sample_ids=[self.names.sample_ids[i] for i in proposal.positions],
            content_hashes=[self.names.content_hashes[i] for i in proposal.positions],
        )
        labeling = self.crew.oracle.submit("label", request)
        scoring = None
        if self.crew.pseudo_labeler is not None:
            # Every unlabeled sample is scored while the oracle works; the query set is dropped afterwards, and what
            # it taught may have a say in which pseudo-labels are kept.
            scoring = self.crew.pseudo_labeler.submit(
                "label", state.text, unlabeled, number, state.labeled, state.labels
            )
            scoring.result()
        response: LabelResponse = labeling.result()
        seconds["label"] = labeling.seconds
        if self.crew.pseudo_labeler is None or scoring is None:
            return response, PseudoLabels.empty()
        choosing = self.crew.pseudo_labeler.submit(
            "drop",
            proposal.positions,
            number,
            np.concatenate([state.labeled, proposal.positions]),
            np.concatenate([state.labels, response.labels.astype(np.int32)]),
        )
        pseudo: PseudoLabels = choosing.result()
        seconds["pseudo_label"] = scoring.seconds + choosing.seconds
        return response, pseudo

    def _unlabeled(self, labeled: Int64Array) -> Int64Array:
        keep = np.ones(len(self.names.sample_ids), bool)
        keep[labeled] = False
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
        }
        tables = {
            "labels": pa.table(
                {
                    "position": state.labeled,
                    "label": state.labels,
                    "log_prob": state.log_prob,
                    "round": state.bought_in,
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
            "wall_seconds": state.wall_seconds,
            "n_pool": len(self.names.sample_ids),
        }
        tensors: dict[str, StateDict] = {"sampler": sampler, "learner": learner, "prompt": prompt}
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
        self.crew.sampler.submit("load_state_dict", checkpoint.tensors["sampler"]).result()
        self.crew.learner.submit("load_state_dict", checkpoint.tensors["learner"]).result()
        prompt, labels, pseudo = checkpoint.tensors["prompt"], tables["labels"], tables["pseudo"]
        state = RunState(
            text=TextState(prompt["text_features"], float(prompt["logit_scale"])),
            zero_shot=Evaluation(**record["zero_shot"]),
            labeled=labels["position"].to_numpy(),
            labels=labels["label"].to_numpy(),
            log_prob=labels["log_prob"].to_numpy(),
            bought_in=labels["round"].to_numpy(),
            contexts=prompt["contexts"],
            pseudo=PseudoLabels(
                pseudo["position"].to_numpy(),
                pseudo["label"].to_numpy(),
                pseudo["confidence"].to_numpy(),
                pseudo["uncertainty"].to_numpy(),
            ),
            last=Evaluation(**record["last"]),
            rows=[{key: _number(value) for key, value in row.items()} for row in record["rows"]],
            updates=[tables["policy"]] if "policy" in tables else [],
            labels_paid=record["labels_paid"],
            wall_seconds=record["wall_seconds"],
        )
        self.reporter.restored(state.rows, state.zero_shot)
        return state


def _number(value: Any) -> Any:
    return float("nan") if value is None else value  # JSON has no NaN: it was stored as null


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
