"""What one round hands to the next. A state never changes: a round makes the next one, which replaces it once saved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from psp_ray.core.answers import SKIP
from psp_ray.core.names import ABSENT, Digests, Names
from psp_ray.core.noise import sample_keys
from psp_ray.core.records import (
    CAME,
    NOBODY,
    Evaluation,
    Float32Array,
    Float64Array,
    Grounds,
    Int32Array,
    Int64Array,
    Proposal,
    PseudoLabels,
    TextState,
    UInt64Array,
)
from psp_ray.labels.service import LabelResponse
from psp_ray.posterior.accuracy import Estimate
from psp_ray.posterior.audit import BoolArray
from psp_ray.report.round_report import RoundReport
from psp_ray.run.crossfitted import CrossFitted, Line
from psp_ray.selftrain.records import KnownLabels

_CHUNK = 1 << 14  # names that are Python's at a time


@dataclass(frozen=True)
class PoolNames:
    """Names of the pool's samples in manifest order, and the classes."""

    sample_ids: Sequence[str]
    content_hashes: Sequence[str]
    classes: list[str]
    known_keys: UInt64Array | None = field(default=None, repr=False, compare=False)
    """Noise keys (n,) of the names, where they are at hand."""

    @cached_property
    def keys(self) -> UInt64Array:
        """Noise keys (n,) of the names."""
        return sample_keys(self.sample_ids) if self.known_keys is None else self.known_keys

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of all names, contents and classes in order: positions in checkpoints mean nothing without it."""
        digest = hashlib.blake2b(digest_size=16)
        pairs = zip(self.sample_ids, self.content_hashes, strict=True)
        while some := [f"{len(name)} {name} {content}\n" for name, content in islice(pairs, _CHUNK)]:
            digest.update("".join(some).encode())
        digest.update("\n".join(self.classes).encode())
        return digest.hexdigest()

    def named(self, positions: Int64Array) -> list[str]:
        """Names (k,) at `positions`, in the order asked for."""
        names = self.sample_ids
        return names.at(positions) if isinstance(names, Names) else [names[i] for i in positions.tolist()]

    def hashed(self, positions: Int64Array) -> list[str]:
        """Content hashes (k,) at `positions`, in the order asked for."""
        hashes = self.content_hashes
        return hashes.at(positions) if isinstance(hashes, Digests) else [hashes[i] for i in positions.tolist()]

    def places(self, names: Sequence[str]) -> dict[str, int]:
        """{name: position} of those of `names` that are in the pool."""
        found = Names.of(self.sample_ids).find(names).tolist()
        return {name: place for name, place in zip(names, found, strict=True) if place != ABSENT}

    def with_content(self, wanted: Sequence[str]) -> tuple[Int64Array, Int64Array]:
        """(positions (r,) rising, rows (r,)): which of `wanted` contents, all different, samples of the pool have."""
        hashes = Digests.of(self.content_hashes)
        if isinstance(hashes, Digests):
            return hashes.rows_of(wanted)
        row = {content: number for number, content in enumerate(wanted)}
        found = [(place, row[content]) for place, content in enumerate(hashes) if content in row]
        positions, rows = np.array(found, np.int64).reshape(-1, 2).T
        return positions, rows


@dataclass(frozen=True)
class RunState:
    """A run after some rounds.

    `asked` (m,) positions in the order asked, `answers` (m,) what the annotator said (a class, SKIP or IGNORE, after
    corrections), `log_prob` (m,) of their selection, `asked_in` (m,) their rounds (0: initial labels), `by_chance` (m,)
    whether the audit drew them, `logits` (m, C) of the classifier that the round began with, which had not seen the
    answer, `grounds`: why each was asked. Initial labels have NaN for `log_prob`, `logits` and `grounds`. `judged`:
    what cross-fitting goes on from. `contexts` are the student's, empty before anything was learned; `zero_shot` and
    `last` (the student's evaluation) are None without images to evaluate on. `updates`: a table of update steps a
    round.
    """

    text: TextState
    contexts: Float32Array
    zero_shot: Evaluation | None
    last: Evaluation | None
    asked: Int64Array
    answers: Int32Array
    log_prob: Float64Array
    asked_in: Int32Array
    by_chance: BoolArray
    logits: Float32Array
    grounds: Grounds
    judged: CrossFitted
    pseudo: PseudoLabels = field(default_factory=PseudoLabels.empty)
    reports: tuple[RoundReport, ...] = ()
    updates: tuple[pa.Table, ...] = ()
    labels_paid: int = 0
    zero_shot_estimate: Estimate | None = None
    stopped: str = ""
    """Why the run ended before its last round; empty where it didn't."""
    wall_seconds: float = 0.0

    @classmethod
    def before_rounds(
        cls, text: TextState, zero_shot: Evaluation | None, positions: Int64Array, labels: Int32Array, folds: int = 0
    ) -> RunState:
        """The state before the first round, with `labels` known for `positions` (k,); `folds` judge what follows."""
        return cls(
            text=text,
            contexts=np.zeros((0, 0), np.float32),
            zero_shot=zero_shot,
            last=None,
            asked=positions,
            answers=labels,
            log_prob=np.full(len(positions), np.nan),
            asked_in=np.zeros(len(positions), np.int32),
            by_chance=np.zeros(len(positions), bool),
            logits=np.full((len(positions), len(text.features)), np.nan, np.float32),
            grounds=Grounds.unknown(len(positions)),
            judged=CrossFitted.start(folds, Line(text)),
        )

    @property
    def round(self) -> int:
        """Rounds finished."""
        return len(self.reports)

    @property
    def has_class(self) -> NDArray[np.bool_]:
        """Which of `asked` (m,) were given a class."""
        return np.asarray(self.answers >= 0)

    @property
    def labeled(self) -> Int64Array:
        """Positions with a class, in the order asked."""
        return np.asarray(self.asked[self.has_class])

    @property
    def labels(self) -> Int32Array:
        """The classes of `labeled`."""
        return np.asarray(self.answers[self.has_class])

    @property
    def known(self) -> KnownLabels:
        """What pseudo-labels may build on."""
        return KnownLabels(self.labeled, self.labels, self.asked_in[self.has_class].astype(np.int64))

    @property
    def labels_used(self) -> int:
        """Answers of the oracle but for skips: what rounds, curves and caps count. Initial labels are not in it."""
        return int(((self.answers != SKIP) & (self.asked_in > 0)).sum())

    def unlabeled(self, n_pool: int) -> Int64Array:
        """Sorted positions that nobody was asked about."""
        keep = np.ones(n_pool, bool)
        keep[self.asked] = False
        return np.flatnonzero(keep).astype(np.int64)

    def with_answers(
        self, proposal: Proposal, logits: Float32Array, response: LabelResponse, names: PoolNames
    ) -> RunState:
        """The next round's answers added, with the corrections of earlier ones that came with them."""
        asked = np.concatenate([self.asked, proposal.positions])
        answers = np.concatenate([self.answers, response.labels.astype(np.int32)])
        if response.corrected_ids:
            now = dict(zip(response.corrected_ids, response.corrected_labels.tolist(), strict=True))
            for row, name in enumerate(names.named(asked)):
                answers[row] = now.get(name, answers[row])
        count = len(proposal.positions)
        return replace(
            self,
            asked=asked,
            answers=answers,
            log_prob=np.concatenate([self.log_prob, proposal.log_prob]),
            asked_in=np.concatenate([self.asked_in, np.full(count, self.round + 1, np.int32)]),
            by_chance=np.concatenate([self.by_chance, np.arange(count) < proposal.n_audit]),
            logits=np.concatenate([self.logits, logits]),
            grounds=self.grounds.then(self._grounds_of(proposal.positions, np.zeros(count), proposal.grounds)),
            labels_paid=response.labels_paid,
        )

    def _grounds_of(self, positions: Int64Array, came: Float64Array, grounds: Grounds | None = None) -> Grounds:
        """The grounds of samples at `positions` (k,), with what self-training takes them for and how they came."""
        pseudo = self.pseudo
        rows = np.searchsorted(pseudo.positions, positions).clip(max=max(len(pseudo.positions) - 1, 0))
        has = np.zeros(len(positions), bool) if not len(pseudo.positions) else pseudo.positions[rows] == positions
        label, sure = np.full(len(positions), float(NOBODY)), np.full(len(positions), np.nan)
        label[has], sure[has] = pseudo.labels[rows[has]], pseudo.confidence[rows[has]]
        known = grounds or Grounds.unknown(len(positions))
        return replace(known, pseudo_class=label, pseudo_confidence=sure, came=came)

    def left_of(self, response: LabelResponse, names: PoolNames) -> tuple[Int64Array, Int32Array, Int64Array]:
        """Positions (k,) and answers (k,) of the round to what its query set doesn't ask for, if they are news, and in
        which rounds query sets had asked for these (k,); 0: none had."""
        here = names.places(response.left_ids) if response.left_ids else {}
        known = set(self.asked.tolist())
        rows = [row for row, name in enumerate(response.left_ids) if name in here and here[name] not in known]
        positions = np.array([here[response.left_ids[row]] for row in rows], np.int64)
        return positions, response.left_labels[rows].astype(np.int32), np.array(response.left_rounds, np.int64)[rows]

    def with_known_corrected(self, response: LabelResponse, names: PoolNames) -> RunState:
        """What was known beforehand replaced by what people answered in this round."""
        said = dict(zip(response.left_ids, response.left_labels.tolist(), strict=True))
        now = [
            said.get(name, answer) if number == 0 else answer
            for name, number, answer in zip(names.named(self.asked), self.asked_in.tolist(), self.answers, strict=True)
        ]
        return replace(self, answers=np.array(now, np.int32), labels_paid=response.labels_paid) if said else self

    def with_volunteered(
        self, positions: Int64Array, labels: Int32Array, logits: Float32Array, labels_paid: int, came: Sequence[str]
    ) -> RunState:
        """Answers (k,) that the query set doesn't ask for added to the round to come: known, but drawn by no plan.
        `came`: of `CAME`, for each."""
        count, numbers = len(positions), np.array([CAME.index(word) for word in came], np.float64)
        return replace(
            self,
            asked=np.concatenate([self.asked, positions]),
            answers=np.concatenate([self.answers, labels.astype(np.int32)]),
            log_prob=np.concatenate([self.log_prob, np.full(count, np.nan)]),
            asked_in=np.concatenate([self.asked_in, np.full(count, self.round + 1, np.int32)]),
            by_chance=np.concatenate([self.by_chance, np.zeros(count, bool)]),
            logits=np.concatenate([self.logits, logits]),
            grounds=self.grounds.then(self._grounds_of(positions, numbers)),
            labels_paid=labels_paid,
        )

    def with_classes(self, more: int) -> RunState:
        """With `more` classes behind the others. The classifiers of the time held them for as unlikely as any."""
        if not more:
            return self
        judged = replace(self.judged, logits=_widened(self.judged.logits, more))
        return replace(self, logits=_widened(self.logits, more), judged=judged)

    def with_estimate(self, number: int, estimate: Estimate | None) -> RunState:
        """What is now known of the classifier after round `number`; 0: zero-shot, where nothing was learned before."""
        if number == 0:
            return self if (self.asked_in == 0).any() else replace(self, zero_shot_estimate=estimate)
        reports = list(self.reports)
        reports[number - 1] = replace(reports[number - 1], pool_accuracy_estimate=estimate)
        return replace(self, reports=tuple(reports))

    def with_last_report(self, report: RoundReport) -> RunState:
        """The newest round's report replaced."""
        return replace(self, reports=(*self.reports[:-1], report))


F = TypeVar("F", Float32Array, Float64Array)


def _widened(logits: F, more: int) -> F:
    """Logits (m, C + more): each row's least value for what its classifier didn't know, so that it never wins."""
    least = logits.min(axis=1, keepdims=True) if len(logits) else np.zeros((0, 1), logits.dtype)
    return np.concatenate([logits, np.repeat(least, more, axis=1)], axis=1)
