"""The answer book: nothing is lost, anything can be taken back, and one answer is the one that counts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psp_ray.labels import AnnotatorInput, AwaitingLabels, Ledger, Oracle, make_annotator
from psp_ray.labels.annotators.people import PeopleAnnotator
from psp_ray.labels.answer_book import REVIEW, SECOND, AnswerBook, Said, decide, disagreements
from psp_ray.labels.service import LabelRequest

NAMES = ["cat", "dog", "fox"]
batches = itertools.count()


def write(book, person, *said, **more):
    return book.write(person, [Said(digest, label, **more) for digest, label in said], f"b{next(batches)}")


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


@pytest.fixture
def book(ledger):
    return AnswerBook(ledger, "run")


@settings(deadline=None, max_examples=30)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from("ab"), st.lists(st.tuples(st.sampled_from("xyz"), st.integers(-2, 2)), min_size=1)
            ),
            st.tuples(st.sampled_from("ab"), st.none()),
        ),
        max_size=12,
    )
)
def test_undo_is_a_stack_for_each_person(tmp_path_factory, steps):
    """Against a plain list of actions for each person, whatever the order."""
    with Ledger(tmp_path_factory.mktemp("book") / "ledger.sqlite") as ledger:
        book, stacks, order = AnswerBook(ledger, "run"), {"a": [], "b": []}, []
        for person, action in steps:
            if action is None:
                gone = stacks[person].pop() if stacks[person] else []
                assert [(event.content_hash, event.label) for event in book.undo(person, f"u{next(batches)}")] == gone
                if gone:
                    del order[max(i for i, step in enumerate(order) if step == (person, gone))]
            else:
                write(book, person, *action)
                stacks[person].append(action)
                order.append((person, action))
        left = [(person, digest, label) for person, action in order for digest, label in action]
        assert [(event.person, event.content_hash, event.label) for event in book.standing()] == left
        assert len(book.events()) >= len(left)


def test_whose_answer_counts(book):
    write(book, "Ann", ("x", 0), ("y", 1))
    write(book, "Bob", ("x", 2), kind=SECOND)
    assert {digest: event.label for digest, event in book.effective().items()} == {"x": 0, "y": 1}
    assert {digest: set(said) for digest, said in disagreements(book.standing()).items()} == {"x": {"Ann", "Bob"}}
    write(book, "Eve", ("x", 2), kind=REVIEW)
    assert book.effective()["x"].label == 2
    assert not disagreements(book.standing())
    write(book, "Bob", ("x", 1), kind=SECOND)  # said after the review: it is open again
    assert list(disagreements(book.standing())) == ["x"]
    assert book.effective()["x"].label == 2
    book.undo("Eve", "undo")
    write(book, "Ann", ("x", 1))
    assert book.effective()["x"].label == 1
    assert not disagreements(book.standing())


def test_what_was_answered_when(book):
    first = write(book, "Ann", ("x", 0))[0].number
    assert book.taken(1) == first
    write(book, "Ann", ("y", 1), ("x", 2))
    assert book.taken(1) == first
    assert {digest: event.label for digest, event in book.effective(book.taken(1)).items()} == {"x": 0}
    assert book.taken(2) == book.events()[-1].number
    assert decide(book.standing())["x"].label == 2


def test_a_book_is_one_experiment_s(ledger, book):
    other = AnswerBook(ledger, "other")
    write(book, "Ann", ("x", 0))
    assert not other.events()
    assert other.taken(1) == 0
    assert not other.undo("Ann", "undo")


class Asked:
    """The oracle of a run whose people answer in a book; every call opens it anew, as another process would."""

    def __init__(self, ledger, experiment="run"):
        self.ledger, self.experiment = ledger, experiment

    def ask(self, number, *ids):
        annotator = make_annotator("people", AnnotatorInput(NAMES, ledger=self.ledger, experiment=self.experiment))
        hashes = [f"h{sample}" for sample in ids]
        name = f"{self.experiment}/round-{number:03d}"
        return Oracle(self.ledger, annotator, NAMES).label(LabelRequest(name, self.experiment, number, ids, hashes))


def test_labels_come_from_the_book_and_follow_it(ledger, book):
    run = Asked(ledger)
    write(book, "Ann", ("h1", 0))
    with pytest.raises(AwaitingLabels) as waiting:
        run.ask(1, "1", "2")
    assert (waiting.value.missing, waiting.value.asked) == (1, 2)
    write(book, "Ann", ("h2", -1))
    assert run.ask(1, "1", "2").labels.tolist() == [0, -1]
    write(book, "Ann", ("h1", 1))  # a correction
    write(book, "Bob", ("h2", 2), kind=REVIEW)
    write(book, "Ann", ("h3", 0))
    told = run.ask(2, "3")
    assert told.labels.tolist() == [0]
    assert dict(zip(told.corrected_ids, told.corrected_labels.tolist(), strict=True)) == {"1": 1, "2": 2}
    assert [(c.previous, c.label) for c in ledger.corrections()] == [(0, 1), (-1, 2)]


def test_an_answer_given_while_others_are_taken_up_is_not_lost(ledger, book):
    """Somebody changes an answer right after it was read: the next request hears of it."""
    changes = [("h1", 2)]

    class Busy(AnswerBook):
        def events(self, after=0):
            found = super().events(after)
            if changes:
                write(book, "Ann", changes.pop())
            return found

    write(book, "Ann", ("h1", 0))
    oracle = Oracle(ledger, PeopleAnnotator(Busy(ledger, "run")), NAMES)
    assert oracle.label(LabelRequest("run/round-001", "run", 1, ["1"], ["h1"])).labels.tolist() == [0]
    assert not changes
    write(book, "Ann", ("h2", 1))
    assert oracle.label(LabelRequest("run/round-002", "run", 2, ["2"], ["h2"])).corrected_labels.tolist() == [2]


def test_a_correction_made_elsewhere_stays(ledger, book):
    run = Asked(ledger)
    write(book, "Ann", ("h1", 0))
    run.ask(1, "1")
    elsewhere = make_annotator("people", AnnotatorInput(NAMES, ledger=ledger, experiment="other"))
    assert Oracle(ledger, elsewhere, NAMES).correct("run", {"1": 2}) == 1
    write(book, "Ann", ("h2", 1))
    run.ask(2, "2")
    assert {use.sample_id: use.label for use in ledger.history("run")} == {"1": 2, "2": 1}
    write(book, "Ann", ("h1", 1))  # Ann looks again: that is later
    write(book, "Ann", ("h3", 1))
    run.ask(3, "3")
    assert {use.sample_id: use.label for use in ledger.history("run")}["1"] == 1
