"""Labels by people who answer in the browser (`psp-ray label`) or through `psp_ray.Session`.

Every answer is written into the answer book in the ledger's database when it is given; a request takes up what is
there and waits for the rest. A changed answer, a reviewer's decision among them, corrects the label. Where a label was
changed elsewhere (`psp-ray oracle correct`), answers that were taken up before change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from psp_ray.core.errors import OracleError
from psp_ray.labels.annotators.base import ANNOTATORS, AnnotatorInput, Item, RevisingAnnotator
from psp_ray.labels.answer_book import AnswerBook, Event, decide, standing

PLACE = "psp-ray label"
"""The program in which people answer: where a run that waits sends them."""


@ANNOTATORS.register("people")
class PeopleAnnotator(RevisingAnnotator):
    """People, who answer in the browser.

    Args:
        answers: what they have said so far.
        name: as whose the ledger knows the labels: those of a run that began with query.csv stay `file`.
    """

    place = PLACE

    def __init__(self, answers: AnswerBook, name: str = "people") -> None:
        self.name, self._answers = name, answers
        self._seen: dict[str, int] = {}

    @classmethod
    def of(cls, given: AnnotatorInput) -> Self:
        if given.ledger is None or not given.experiment:
            raise OracleError("--oracle people: the run and its ledger are not known here; start a run")
        return cls(AnswerBook(given.ledger, given.experiment))

    def answer(self, items: Sequence[Item]) -> list[int | None]:
        """What people said; None where they have said nothing yet."""
        said, newest = self._book()
        found = [said[item.content_hash].label if item.content_hash in said else None for item in items]
        self._answers.settle(
            {item.content_hash: newest[item.content_hash] for item in items if item.content_hash in said}
        )
        return found

    def revisions(self, told: Mapping[str, int]) -> dict[str, int]:
        """Answers given or decided since the last ones were taken up that differ from what was told."""
        before, (said, newest) = self._answers.settled(), self._book()
        self._seen = {digest: number for digest, number in newest.items() if digest in before}
        hashes = {use.sample_id: use.content_hash for use in self._answers.ledger.history(self._answers.experiment)}
        changed = {}
        for sample, label in told.items():
            digest = hashes[sample]
            fresh = digest in said and newest[digest] > before.get(digest, 0)
            if fresh and said[digest].label != label:
                changed[sample] = said[digest].label
                self._seen[digest] = newest[digest]
        return changed

    def settled(self) -> None:
        """The answers that `revisions` saw last are in the ledger."""
        self._answers.settle(self._seen)

    def _book(self) -> tuple[dict[str, Event], dict[str, int]]:
        """The answer to each image and the number of the last event about it, at one moment: people go on answering."""
        events = self._answers.events()
        return decide(standing(events)), {event.content_hash: event.number for event in events}
