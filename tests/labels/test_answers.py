"""Skip, ignore, partial answers and corrections, on SQLite and PostgreSQL."""

import pickle

import pytest

from psp_ray.core import answers
from psp_ray.core.errors import BudgetError, OracleError
from psp_ray.core.words import normalize_name
from psp_ray.labels import (
    IGNORE,
    SKIP,
    AwaitingLabels,
    GroundTruthAnnotator,
    Ledger,
    Oracle,
    OracleSettings,
    UnknownLabel,
    answer_name,
    parse_answer,
)
from psp_ray.labels.annotators.base import RevisingAnnotator
from tests.labels.clients import request, truth
from tests.labels.conftest import CLASSES


class Person(RevisingAnnotator):
    """Answers what `answers` says, takes its time about the rest, and may change its mind."""

    name = "person"

    def __init__(self, answers, cost=1.0):
        self.cost = cost
        self.answers, self.asked, self.now, self.settlements = answers, [], {}, 0

    def answer(self, items):
        self.asked.append([item.sample_id for item in items])
        return [self.answers.get(item.sample_id) for item in items]

    def revisions(self, told):
        return {sample: label for sample, label in self.now.items() if told.get(sample, label) != label}

    def settled(self):
        self.settlements += 1


@pytest.fixture
def ledger(ledger_url):
    with Ledger(ledger_url) as opened:
        yield opened


def test_skips_cost_nothing_and_ignores_count(ledger):
    oracle = Oracle(ledger, Person({"s0": 1, "s1": SKIP, "s2": IGNORE}, cost=2.0), CLASSES)
    response = oracle.label(request("r1", "e", 1, [0, 1, 2]))
    assert response.labels.tolist() == [1, SKIP, IGNORE]
    assert (response.newly_paid, response.labels_used, response.labels_paid) == (2, 2, 2)
    assert ledger.cost_paid("e") == 4.0
    again = Oracle(ledger, Person({}), CLASSES).label(request("q", "f", 1, [1]))
    assert again.labels.tolist() == [SKIP], "a skip is remembered like any answer"


def test_skips_leave_room_under_the_caps(ledger):
    oracle = Oracle(
        ledger,
        Person({f"s{i}": SKIP if i < 2 else 0 for i in range(9)}),
        CLASSES,
        OracleSettings(label_cap=3, cost_cap=3),
    )
    oracle.label(request("r1", "e", 1, [0, 1, 2]))
    oracle.label(request("r2", "e", 2, [3, 4]))
    with pytest.raises(BudgetError, match="has 3 labels"):
        oracle.label(request("r3", "e", 3, [5]))


def test_partial_answers_are_kept_and_the_rest_is_asked_again(ledger):
    person = Person({"s0": 1, "s2": 0})
    oracle = Oracle(ledger, person, CLASSES)
    with pytest.raises(AwaitingLabels, match="waiting for 2 of 4 labels") as caught:
        oracle.label(request("r1", "e", 1, [0, 1, 2, 3]))
    assert (caught.value.missing, caught.value.asked) == (2, 4)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert ledger.labels_paid("e") == 2
    assert ledger.status()["labels_claimed"] == 0
    person.answers |= {"s1": 2, "s3": SKIP}
    response = oracle.label(request("r1", "e", 1, [0, 1, 2, 3]))
    assert response.labels.tolist() == [1, 2, 0, SKIP]
    assert person.asked == [["s0", "s1", "s2", "s3"], ["s1", "s3"]]


def test_a_batch_without_answers_does_not_keep_the_next_from_being_asked(ledger):
    person = Person({"s2": 1, "s3": 1})
    person.batch_size = 2
    with pytest.raises(AwaitingLabels, match="waiting for 2 of 4"):
        Oracle(ledger, person, CLASSES).label(request("r1", "e", 1, [0, 1, 2, 3]))
    assert ledger.labels_paid("e") == 2


def test_a_correction_reaches_everybody_and_is_kept_in_the_history(ledger):
    oracle = Oracle(ledger, Person({"s0": 1, "s1": 0}), CLASSES)
    oracle.label(request("r1", "e", 1, [0, 1]))
    other = Oracle(ledger, Person({}), CLASSES)
    other.label(request("q1", "f", 1, [0]))
    assert oracle.correct("e", {"s0": 2, "s1": 0}) == 1
    assert oracle.correct("e", {"s0": 0}) == 1
    history = ledger.corrections("hash0")
    assert [(c.number, c.previous, c.label, c.corrected_by) for c in history] == [(1, 1, 2, "e"), (2, 2, 0, "e")]
    response = oracle.label(request("r2", "e", 2, []))
    assert dict(zip(response.corrected_ids, response.corrected_labels.tolist(), strict=True)) == {"s0": 0}
    assert other.label(request("q2", "f", 2, [1])).corrected_ids == ("s0",)
    assert [use.label for use in ledger.history("f")] == [0, 0]
    assert Oracle(ledger, Person({}), CLASSES).label(request("g1", "g", 1, [0])).labels.tolist() == [0]
    assert ledger.labels_paid("e") == 2


def test_corrections_don_t_cross_annotators_or_label_spaces(ledger):
    Oracle(ledger, GroundTruthAnnotator(truth()), CLASSES).label(request("r1", "e", 1, [0]))
    person = Oracle(ledger, Person({"s0": 1}), CLASSES)
    person.label(request("q1", "f", 1, [0]))
    person.correct("f", {"s0": 2})
    assert [use.label for use in ledger.history("e")] == [0]


def test_a_skip_that_becomes_a_label_is_paid_then(ledger):
    oracle = Oracle(ledger, Person({"s0": SKIP, "s1": 1}), CLASSES)
    assert oracle.label(request("r1", "e", 1, [0, 1])).labels_used == 1
    oracle.correct("e", {"s0": 2})
    response = oracle.label(request("r2", "e", 2, []))
    assert (response.labels_used, response.labels_paid) == (2, 2)
    assert ledger.cost_paid("e") == 2.0
    oracle.correct("e", {"s1": SKIP})
    assert ledger.labels_used("e") == 1
    assert ledger.cost_paid("e") == 2.0, "a label that is taken back stays paid for"


def test_an_annotator_s_second_thoughts_are_asked_for(ledger):
    person = Person({"s0": 1, "s1": 0, "s2": 0})
    oracle = Oracle(ledger, person, CLASSES)
    oracle.label(request("r1", "e", 1, [0, 1]))
    person.now = {"s0": 2}
    assert oracle.label(request("r2", "e", 2, [2])).corrected_labels.tolist() == [2]
    person.now = {"s2": IGNORE}
    assert oracle.revise("e") == 1
    assert person.settlements == 2
    assert oracle.revise("e") == 0


def test_corrections_are_checked(ledger):
    oracle = Oracle(ledger, Person({"s0": 1}), CLASSES)
    oracle.label(request("r1", "e", 1, [0]))
    with pytest.raises(OracleError, match="never labeled"):
        oracle.correct("e", {"s0": 2, "s9": 1})
    with pytest.raises(OracleError, match=r"labels are 0\.\.2"):
        oracle.correct("e", {"s0": 7})
    assert ledger.corrections() == []


def test_what_people_type():
    names = ["Sea lion", "sea_horse", "dog", "ignore me"]
    assert [parse_answer(t, names) for t in (" dog", "sea-lion", "SEA HORSE", "Skip", "IGNORE", " ")] == [
        2, 0, 1, SKIP, IGNORE, None,
    ]  # fmt: skip
    with pytest.raises(UnknownLabel, match=r"'sealion' is no class \(did you mean 'Sea lion'\?\)"):
        parse_answer("sealion", names)
    with pytest.raises(UnknownLabel, match="classes are 'Sea lion', 'sea_horse'"):
        parse_answer("zzz", names)
    assert parse_answer("skip", ["skip", "other"]) == 0, "a class of that name is meant where there is one"
    assert [answer_name(label, names) for label in (2, SKIP, IGNORE)] == ["dog", "skip", "ignore"]


def test_reading_takes_no_longer_with_many_classes(monkeypatch):
    """Names are normalized once for each class and once for each text, not once for each pair."""
    names = [f"golden retriever {i}" for i in range(300)]
    texts = [name.replace(" ", "_") for name in names] + names
    calls = []
    monkeypatch.setattr(answers, "normalize_name", lambda name: calls.append(name) or normalize_name(name))
    read = answers.AnswerReader(names)
    assert [read(text) for text in texts] == [*range(300), *range(300)]
    assert len(calls) == 600
