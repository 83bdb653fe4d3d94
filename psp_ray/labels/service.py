"""The oracle: answers which class an image has, and buys a label only where nobody has bought it yet."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import Field

from psp_ray.config.base import Settings
from psp_ray.core.answers import AwaitingLabels
from psp_ray.core.errors import OracleError
from psp_ray.core.records import Int32Array
from psp_ray.core.words import counted
from psp_ray.labels.annotators.base import Annotator, Item, RevisingAnnotator
from psp_ray.labels.desk import Desk, alive
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.orders import Order
from psp_ray.labels.restore import KnownAnswers, LedgerRepair
from psp_ray.labels.schema import label_space_of


class OracleSettings(Settings):
    """Settings of the oracle; field names are config keys."""

    label_cap: int | None = Field(default=None, ge=0, description="most labels an experiment may use, bought or reused")
    cost_cap: float | None = Field(
        default=None, ge=0, description="most the labels of an experiment may be worth at their price, bought or reused"
    )
    lease_seconds: float = Field(
        default=90.0,
        gt=0,
        allow_inf_nan=False,
        description="how long a claimed image is left to a silent client before another one may pay for it; whoever "
        "is at work prolongs it",
    )
    wait_seconds: float = Field(
        default=3600.0, gt=0, allow_inf_nan=False, description="how long to wait for labels that another client buys"
    )


@dataclass(frozen=True)
class LabelRequest:
    """Samples to be labeled. The same `request_id` asked again gives the same answer and costs nothing.

    `sample_ids` are distinct; `content_hashes` name their images' bytes, in the same order. `experiment` names a run
    in the ledger, for ever. `suggestions`: class names to show to the annotator, in the same order, or none at all;
    `confidence`: their probabilities (0..1), where they are known.
    `replaces`: the round may have asked for other samples before, which this request is instead of; else that is
    refused.
    """

    request_id: str
    experiment: str
    round: int
    sample_ids: Sequence[str]
    content_hashes: Sequence[str]
    suggestions: Sequence[str] = ()
    confidence: Sequence[float] = ()
    replaces: bool = False

    def __post_init__(self) -> None:
        if len(self.sample_ids) != len(self.content_hashes):
            raise ValueError(f"{len(self.sample_ids)} sample_ids but {len(self.content_hashes)} content_hashes")
        if len(set(self.sample_ids)) != len(self.sample_ids):
            raise ValueError("sample_ids of a request must be distinct")


@dataclass(frozen=True)
class LabelResponse:
    """`labels` (n,) int32 for `sample_ids`, in the order asked: class indices, SKIP or IGNORE.

    `newly_paid`: labels that this request bought. `labels_used` and `labels_paid`: of the experiment, up to and with
    the request's round, so that a repeated request repeats its whole answer. Skips are in none of these counts.
    `corrected_ids`, `corrected_labels` (k,): what samples of this and earlier rounds are now, whose labels were
    corrected at any time. `left_ids`, `left_labels` (l,): what was answered in this round for other samples, which an
    earlier query set of it asked for (the pool changed in between), or nobody; `left_rounds` (l,): the round whose
    query set had asked for each, 0 where none had.
    """

    sample_ids: tuple[str, ...]
    labels: Int32Array
    newly_paid: int
    labels_used: int
    labels_paid: int
    corrected_ids: tuple[str, ...] = ()
    corrected_labels: Int32Array = field(default_factory=lambda: np.zeros(0, np.int32))
    left_ids: tuple[str, ...] = ()
    left_labels: Int32Array = field(default_factory=lambda: np.zeros(0, np.int32))
    left_rounds: tuple[int, ...] = ()


class Oracle:
    """Labels for experiments over one ordered list of classes, from one annotator.

    `ledger` is an open `Ledger`, a path (SQLite) or a database URL. Safe for threads; many oracles, in any processes,
    may share a ledger.
    """

    def __init__(
        self,
        ledger: Ledger | str | os.PathLike[str],
        annotator: Annotator,
        class_names: Sequence[str],
        settings: OracleSettings | None = None,
    ) -> None:
        self.ledger = ledger if isinstance(ledger, Ledger) else Ledger(ledger)
        self._owned = self.ledger is not ledger
        self.annotator = annotator
        self.class_names = tuple(class_names)
        self._desk = Desk(annotator, self.class_names)
        self.settings = settings or OracleSettings()
        self.label_space = label_space_of(self.class_names)
        # One request at a time per oracle: a retried call finds the first one's answer instead of racing it.
        self._lock = threading.Lock()

    def label(self, request: LabelRequest) -> LabelResponse:
        """Labels for `request`, durable before they are returned.

        What the annotator changed its mind about since it answered earlier requests is corrected first.

        Raises BudgetError, before anything is bought, where a cap would be overrun; AwaitingLabels where the annotator
        has not answered everything yet (what it did answer is bought); OracleError where it can't answer, another
        client's claim outlasts `wait_seconds`, the ledger fails, or the request contradicts an earlier one (see
        `Ledger.advance`).
        """
        order = self._order(request)
        if request.replaces:
            order = self.ledger.place(order)
        hints = _hints(request)
        with self._lock:
            if isinstance(self.annotator, RevisingAnnotator):
                self.annotator.begin(order.round, order.sample_ids)
            self._revise(order)
            self._take_up(order)
            answer = self._buy(order, hints)
            newly_paid, used, paid = self.ledger.counts(order)
            corrected = self.ledger.corrected(order)
            left = self.ledger.left(order)
        labels = np.array([answer[sample] for sample in order.sample_ids], dtype=np.int32)
        return LabelResponse(
            order.sample_ids,
            labels,
            newly_paid,
            used,
            paid,
            tuple(corrected),
            np.array(list(corrected.values()), dtype=np.int32),
            tuple(left),
            np.array(list(left.values()), dtype=np.int32),
            tuple(self._asked_in(order.round, list(left))),
        )

    def restore(self, known: KnownAnswers) -> LedgerRepair:
        """Put back into the ledger what a run's checkpoint knows and the ledger has lost. Raises OracleError."""
        with self._lock:
            return self.ledger.restore(self._order(LabelRequest("", known.experiment, 0, (), ())), known)

    def correct(self, experiment: str, changes: Mapping[str, int]) -> int:
        """Change labels that `experiment` was told, {sample_id: label}; returns how many changed.

        Raises OracleError for a label out of range, or a sample that it was never told a label for.
        """
        told = {use.sample_id: use for use in self.ledger.history(experiment)}
        for sample, label in changes.items():
            self._desk.check(sample, label)
            if sample not in told:
                raise OracleError(f"sample {sample!r} was never labeled for this run, so it can't be corrected")
        if not changes:
            return 0
        order = self._order(LabelRequest("", experiment, 0, (), ()))
        return self.ledger.correct(order, {told[sample].content_hash: label for sample, label in changes.items()})

    def revise(self, experiment: str) -> int:
        """Ask the annotator about all it ever told `experiment`, and correct what is different now; returns how many
        labels changed."""
        with self._lock:
            return self._revise(self._order(LabelRequest("", experiment, 0, (), ())))

    def volunteered(self, experiment: str) -> int:
        """How many answers to samples of the pool wait that `experiment` was never told.

        The next request takes them up.

        Raises OracleError for an answer to what is no sample of the pool.
        """
        if not isinstance(self.annotator, RevisingAnnotator):
            return 0
        return self.annotator.waiting({use.sample_id: use.label for use in self.ledger.history(experiment)})

    def status(self) -> dict[str, Any]:
        """Counts of the ledger and of each experiment, with this oracle's annotator and label space."""
        return self.ledger.status() | {
            "annotator": self.annotator.name,
            "label_space": self.label_space,
            "classes": len(self.class_names),
        }

    def close(self) -> None:
        """Close the ledger if this oracle opened it."""
        if self._owned:
            self.ledger.close()

    def _order(self, request: LabelRequest) -> Order:
        return Order(
            request_id=request.request_id,
            experiment=request.experiment,
            round=int(request.round),
            label_space=self.label_space,
            class_names=self.class_names,
            annotator=self.annotator.name,
            cost=float(self.annotator.cost),
            sample_ids=tuple(request.sample_ids),
            content_hashes=tuple(request.content_hashes),
            label_cap=self.settings.label_cap,
            cost_cap=self.settings.cost_cap,
            lease_seconds=self.settings.lease_seconds,
        )

    def _revise(self, order: Order) -> int:
        if not isinstance(self.annotator, RevisingAnnotator):
            return 0
        told = {use.sample_id: use.label for use in self.ledger.history(order.experiment)}
        if not told:
            return 0
        changed = self.correct(order.experiment, self.annotator.revisions(told))
        self.annotator.settled()
        return changed

    def _take_up(self, order: Order) -> None:
        """Buy what people answered without being asked any more: no typed answer is dropped."""
        if not isinstance(self.annotator, RevisingAnnotator):
            return
        told = {use.sample_id: use.label for use in self.ledger.history(order.experiment)}
        given = self.annotator.volunteered(told, order.sample_ids)
        if not given:
            return
        items = [item for item, _ in given]
        names, hashes = tuple(item.sample_id for item in items), tuple(item.content_hash for item in items)
        extra = replace(order, sample_ids=names, content_hashes=hashes)
        extra = replace(extra, request_id=f"{order.request_id}+{extra.digest[:8]}")
        progress = self.ledger.advance(extra)
        answers = {item.content_hash: self._desk.label(item, label) for item, label in given}
        bought = [(item.content_hash, answers[item.content_hash]) for item in progress.to_buy]
        self.ledger.store(extra, [(digest, label) for digest, label in bought if label is not None])
        self.ledger.advance(extra)

    def _asked_in(self, round: int, samples: Sequence[str]) -> Sequence[int]:
        if not isinstance(self.annotator, RevisingAnnotator):
            return [round] * len(samples)
        return self.annotator.asked_in(round, samples)

    def _buy(self, order: Order, hints: Mapping[str, tuple[str, float]]) -> dict[str, int]:
        progress = self.ledger.advance(order)  # refuses before anything is claimed, hence outside the try
        deadline = time.monotonic() + self.settings.wait_seconds
        pause = 0.02
        unanswered: set[str] = set()
        try:
            while progress.answer is None:
                to_buy = [item for item in progress.to_buy if item.content_hash not in unanswered]
                if to_buy:
                    batch = [_with_hint(item, hints) for item in to_buy[: self.annotator.batch_size]]
                    with alive(self.ledger, order):
                        answers = self._desk.ask(batch)
                    self.ledger.store(order, [(digest, label) for digest, label in answers if label is not None])
                    unanswered |= {digest for digest, label in answers if label is None}
                    pause = 0.02
                elif unanswered:
                    missing = sum(digest in unanswered for digest in order.content_hashes)
                    raise self._awaiting(missing, len(order.sample_ids))
                else:
                    if time.monotonic() > deadline:
                        raise OracleError(f"oracle: {progress.waiting}; wait for that run, then go on with --resume")
                    time.sleep(pause)
                    pause = min(2 * pause, 1.0)
                progress = self.ledger.advance(order)
        except BaseException:
            # Let other clients go on at once. A ledger that fails here too must not hide the first error; the claims
            # then end with their lease.
            with suppress(OracleError):
                self.ledger.release(order)
            raise
        return progress.answer

    def _awaiting(self, missing: int, asked: int) -> AwaitingLabels:
        place = self.annotator.place or self.annotator.name
        said = f"waiting for {missing} of {counted(asked, 'label')}: {place}; answer"
        return AwaitingLabels(f"{said}, then run the same command with --resume", missing, asked, place)


def _hints(request: LabelRequest) -> dict[str, tuple[str, float]]:
    if not request.suggestions:
        return {}
    confidence = request.confidence or [0.0] * len(request.suggestions)
    return dict(zip(request.sample_ids, zip(request.suggestions, confidence, strict=True), strict=True))


def _with_hint(item: Item, hints: Mapping[str, tuple[str, float]]) -> Item:
    suggestion, confidence = hints.get(item.sample_id, ("", 0.0))
    return replace(item, suggestion=suggestion, confidence=confidence)
