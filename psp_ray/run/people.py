"""The people who label for a run: their book of answers and the oracle that takes labels from it, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psp_ray.labels import Ledger, Oracle, OracleSettings
from psp_ray.labels.annotators.people import PeopleAnnotator
from psp_ray.labels.answer_book import AnswerBook
from psp_ray.labels.questions import bought
from psp_ray.labels.spaces import take_classes
from psp_ray.run.asking import ASKED
from psp_ray.run.inputs import OracleInput


def hand_classes(given: OracleInput) -> None:
    """Let the ledger know the classes of a run that people answer as they are now. Raises OracleError."""
    if given.settings.oracle in ASKED:
        with Ledger(given.ledger) as ledger:
            take_classes(ledger, given.experiment, given.classes)


@dataclass(frozen=True)
class People:
    """Who answers for one experiment. Everything here is safe for threads."""

    ledger: Ledger
    answers: AnswerBook
    oracle: Oracle

    @classmethod
    def of(cls, given: OracleInput) -> People:
        """Opens the ledger. Raises OracleError where it can't be.

        The ledger knows the labels as those of the annotator that the run was begun with.
        """
        ledger = Ledger(given.ledger)
        answers = AnswerBook(ledger, given.experiment)
        caps = OracleSettings(label_cap=given.settings.label_cap, cost_cap=given.settings.cost_cap)
        annotator = PeopleAnnotator(answers, given.settings.oracle)
        return cls(ledger, answers, Oracle(ledger, annotator, given.classes, caps))

    def bought(self, content_hashes: Sequence[str]) -> dict[str, int]:
        """Labels that are in the ledger already, {content hash: label}: nobody need be asked for these."""
        return bought(self.ledger, self.oracle.label_space, self.oracle.annotator.name, content_hashes)

    def close(self) -> None:
        self.ledger.close()
