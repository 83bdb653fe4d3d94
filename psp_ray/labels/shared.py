"""One oracle for many experiments: what the clients' data sets are, and whose question is answered from what.

It keeps nothing that matters: labels, caps, votes and accounts are in the ledger. What is lost with it, the true
classes that the clients' data sets brought along, clients bring again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from psp_ray.core.errors import OracleError
from psp_ray.core.names import Digests
from psp_ray.core.records import Int32Array
from psp_ray.labels.annotators.base import Annotator, Item
from psp_ray.labels.annotators.ground_truth import GroundTruthAnnotator
from psp_ray.labels.annotators.simulated import Record, SimulatedAnnotators, SimulatedGroup
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.restore import KnownAnswers, LedgerRepair
from psp_ray.labels.schema import label_space_of
from psp_ray.labels.service import LabelRequest, LabelResponse, Oracle, OracleSettings
from psp_ray.labels.truths import TrueClasses
from psp_ray.labels.votes import Vote, load_votes, record_votes


def _require(holds: bool, otherwise: str) -> None:
    """What comes from another process is looked at before it is believed."""
    if not holds:
        raise ValueError(otherwise)


class NotEnrolled(OracleError):
    """The oracle doesn't know the classes of a client's data set, or not any more: enroll, and ask again."""


@dataclass(frozen=True)
class Enrollment:
    """A client's data set: ordered class names, and the true classes (n,) of its images by content hash."""

    classes: list[str]
    content_hashes: Sequence[str]
    labels: Int32Array

    def __post_init__(self) -> None:
        texts = self.classes if isinstance(self.content_hashes, Digests) else [*self.classes, *self.content_hashes]
        _require(all(isinstance(text, str) for text in texts), "a name is no text")
        _require(len(self.content_hashes) == len(self.labels), "labels don't fit the images")
        inside = len(self.labels) == 0 or (self.labels.min() >= 0 and self.labels.max() < len(self.classes))
        _require(bool(inside), "a label is no class")


@dataclass(frozen=True)
class Question:
    """A label request with the caps of its experiment."""

    label_space: str
    request: LabelRequest
    label_cap: int | None
    cost_cap: float | None

    def __post_init__(self) -> None:
        request = self.request
        _require(isinstance(request, LabelRequest), "request is something else")
        texts = [self.label_space, request.request_id, request.experiment, *request.sample_ids, *request.content_hashes]
        _require(all(isinstance(text, str) for text in texts), "a name is no text")
        _require(type(request.round) is int, "round is no number")
        _require(self.label_cap is None or type(self.label_cap) is int, "label_cap is no number")
        _require(self.cost_cap is None or isinstance(self.cost_cap, (int, float)), "cost_cap is no number")


@dataclass(frozen=True)
class Knowledge:
    """What a run's checkpoint knows, in the classes of its label space."""

    label_space: str
    known: KnownAnswers

    def __post_init__(self) -> None:
        _require(isinstance(self.label_space, str), "label_space is no text")
        _require(isinstance(self.known, KnownAnswers), "known is something else")


class SharedOracle:
    """Answers the questions of many experiments over one ledger. Safe for threads.

    Args:
        name: for messages. ledger: open. group: simulated annotators; None: the clients' true labels.
    """

    def __init__(self, name: str, ledger: Ledger, group: SimulatedGroup | None = None) -> None:
        self._name, self._ledger, self._group = name, ledger, group
        self._simulated: dict[str, SimulatedAnnotators] = {}
        self._classes: dict[str, list[str]] = {}
        self._truth: dict[str, TrueClasses] = {}
        self._oracles: dict[tuple[str, str, int | None, float | None], Oracle] = {}
        self._lock = threading.Lock()
        self.requests = 0
        """Questions answered so far."""

    @property
    def annotators(self) -> str:
        """Who answers: the name of the simulated group, or `ground truth`."""
        return self._group.digest if self._group is not None else "ground truth"

    def enroll(self, given: Enrollment) -> None:
        """Take in a data set's classes and truth. Raises OracleError where another client said otherwise."""
        space = label_space_of(given.classes)
        with self._lock:
            differing = self._truth.setdefault(space, TrueClasses()).add(given.content_hashes, given.labels)
            if differing is not None:
                row, before = differing
                raise OracleError(
                    f"oracle {self._name}: image {given.content_hashes[row]} has class "
                    f"{given.classes[given.labels[row]]!r} here but {given.classes[before]!r} in an earlier one; give "
                    "one of them its own ledger"
                )
            self._classes[space] = list(given.classes)

    def label(self, question: Question) -> LabelResponse:
        """Labels for a question. Raises as `Oracle.label`, or NotEnrolled."""
        oracle = self._oracle(question)
        with self._lock:
            self.requests += 1
        return oracle.label(question.request)

    def restore(self, given: Knowledge) -> LedgerRepair:
        """Put back into the ledger what a run knows. Raises as `label`."""
        known = given.known
        request = LabelRequest("", known.experiment, 0, list(known.sample_ids), list(known.content_hashes))
        return self._oracle(Question(given.label_space, request, None, None)).restore(known)

    def _oracle(self, question: Question) -> Oracle:
        """One oracle an experiment: requests of an experiment follow each other, experiments don't wait."""
        space, request = question.label_space, question.request
        key = (space, request.experiment, question.label_cap, question.cost_cap)
        with self._lock:
            truth = self._truth.get(space)
            if truth is None or any(name not in truth for name in request.content_hashes):
                raise NotEnrolled(
                    f"oracle {self._name}: knows no class of some images of {request.experiment!r}; a shared "
                    "oracle answers for data sets whose labels are all known, people are asked with --oracle file"
                )
            if key not in self._oracles:
                settings = OracleSettings(label_cap=question.label_cap, cost_cap=question.cost_cap)
                annotator = self._annotator(space, truth, request.experiment)
                self._oracles[key] = Oracle(self._ledger, annotator, self._classes[space], settings)
            return self._oracles[key]

    def _annotator(self, space: str, truth: TrueClasses, experiment: str) -> Annotator:
        if self._group is None:
            return _ByHash(GroundTruthAnnotator(truth))
        if space not in self._simulated:
            earlier = load_votes(self._ledger, space, self._group.digest)
            self._simulated[space] = SimulatedAnnotators(truth, self._group, len(self._classes[space]), earlier)
        group = self._simulated[space]

        def record(votes: Sequence[Vote]) -> None:
            record_votes(self._ledger, space, group.name, experiment, votes)

        return _VotesByHash(group, record)


class _ByHash(Annotator):
    """Asks an annotator for images by content hash: sample names differ between experiments."""

    def __init__(self, annotator: Annotator) -> None:
        self._annotator = annotator
        self.name, self.cost, self.batch_size = annotator.name, annotator.cost, annotator.batch_size

    def answer(self, items: Sequence[Item]) -> Sequence[int | str | None]:
        return self._annotator.answer(_by_hash(items))


class _VotesByHash(Annotator):
    """As `_ByHash`, for simulated annotators, whose votes are entered under the experiment that pays for them."""

    def __init__(self, group: SimulatedAnnotators, record: Record) -> None:
        self._group, self._record = group, record
        self.name, self.cost, self.batch_size = group.name, group.cost, group.batch_size

    def answer(self, items: Sequence[Item]) -> Sequence[int]:
        return self._group.answer(_by_hash(items), self._record)


def _by_hash(items: Sequence[Item]) -> list[Item]:
    return [replace(item, sample_id=item.content_hash) for item in items]
