"""Two copies of a ledger that went on apart are one again: purchases, uses, corrections and people's books."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

from hypothesis import given, settings
from hypothesis import strategies as st

from psp_ray.labels import GroundTruthAnnotator, Ledger, Oracle
from psp_ray.labels.accounting import LedgerAccounting
from psp_ray.labels.answer_book import AnswerBook, Said
from psp_ray.labels.merge import merge
from psp_ray.labels.service import LabelRequest
from tests.labels.clients import truth
from tests.labels.conftest import CLASSES


def buy(path, experiment, round, numbers):
    oracle = Oracle(path, GroundTruthAnnotator(truth()), CLASSES)
    ids, hashes = [f"s{i}" for i in numbers], [f"hash{i}" for i in numbers]
    oracle.label(LabelRequest(f"{experiment}/{round}/{min(numbers)}", experiment, round, ids, hashes))
    oracle.close()


def rows(path, statement):
    with closing(sqlite3.connect(path)) as connection:
        return set(connection.execute(statement).fetchall())


LABELS = "SELECT annotator, content_hash, label FROM labels WHERE label IS NOT NULL"
USES = "SELECT experiment, sample_id, label FROM uses WHERE label IS NOT NULL"
sets = st.sets(st.integers(0, 15), min_size=1, max_size=5)


@settings(max_examples=6, deadline=None)
@given(before=sets, here=sets, there=sets)
def test_both_are_in_it_and_twice_is_once(tmp_path_factory, before, here, there):
    folder = tmp_path_factory.mktemp("ledgers")
    ours, theirs = folder / "ours.sqlite", folder / "theirs.sqlite"
    buy(ours, "e", 1, sorted(before))
    shutil.copy(ours, theirs)
    buy(ours, "f", 1, sorted(here))
    buy(theirs, "g", 1, sorted(there))
    expected = [rows(ours, statement) | rows(theirs, statement) for statement in (LABELS, USES)]
    for turn in range(2):
        with Ledger(ours) as target, Ledger(theirs) as other:
            assert merge(target, other) == (0 if turn else len(there - here - before))
        assert [rows(ours, statement) for statement in (LABELS, USES)] == expected
    with LedgerAccounting(str(ours)) as accounting:
        assert accounting.check() == []


def test_corrections_of_both_are_kept_and_the_latest_counts(tmp_path):
    ours, theirs = tmp_path / "ours.sqlite", tmp_path / "theirs.sqlite"
    buy(ours, "e", 1, [0, 1])
    shutil.copy(ours, theirs)
    for path, label in ((ours, 1), (theirs, 2)):  # theirs comes later
        oracle = Oracle(path, GroundTruthAnnotator(truth()), CLASSES)
        assert oracle.correct("e", {"s0": label}) == 1
        oracle.close()
    with Ledger(ours) as target, Ledger(theirs) as other:
        merge(target, other)
        assert [(item.number, item.label) for item in target.corrections("hash0")] == [(1, 1), (2, 2)]
        assert {use.sample_id: use.label for use in target.history("e")}["s0"] == 2
        merge(target, other)
        assert len(target.corrections("hash0")) == 2


def test_books_of_both_are_one(tmp_path):
    ours, theirs = tmp_path / "ours.sqlite", tmp_path / "theirs.sqlite"
    with Ledger(ours) as ledger:
        AnswerBook(ledger, "e").write("ann", [Said("hash0", 0)], "a")
    shutil.copy(ours, theirs)
    with Ledger(ours) as target, Ledger(theirs) as other:
        mine, hers = AnswerBook(target, "e"), AnswerBook(other, "e")
        mine.write("ann", [Said("hash1", 1)], "b")
        hers.write("bob", [Said("hash2", 2)], "c")
        hers.undo("bob", "d")
        hers.write("bob", [Said("hash3", 1)], "f")
        for _ in range(2):
            merge(target, other)
            assert {digest: event.label for digest, event in mine.effective().items()} == {
                "hash0": 0,
                "hash1": 1,
                "hash3": 1,
            }
            assert len(mine.events()) == 5
