"""When people are shown what the classifier thinks: where it has proved right on answers that never saw it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from psp_ray.labels.answer_book import ANSWER, Event
from psp_ray.posterior.accuracy import limits

RECENT = 100
"""Blind answers that are looked at: the classifier learns, so old ones say little."""


@dataclass(frozen=True)
class Record:
    """How suggestions did on the latest blind answers: `right` of `of`. They are shown from probability `cut` on; above
    1 they are not."""

    right: int
    of: int
    cut: float


def record_of(events: Iterable[Event], least: float, fewest: int) -> Record:
    """The record on answers to images whose prediction was withheld; `events` stand, in order.

    The cut is the lowest at which, among at least `fewest` blind answers to images that were predicted as surely, the
    share of right predictions is `least` or more by its lower 95 % limit. Query sets are what the classifier finds
    hard, so all predictions together would hardly ever do; the sure ones do early.
    """
    blind = [event for event in events if event.kind == ANSWER and not event.shown and event.suggested >= 0][-RECENT:]
    right, cut = 0, 2.0 if fewest else 0.0
    for count, event in enumerate(sorted(blind, key=lambda event: -event.probability), 1):
        right += event.label == event.suggested
        if count >= fewest and limits(right, count)[0] >= least:
            cut = min(cut, event.probability)
    return Record(right, len(blind), cut)
