"""A ledger that lost labels gets them back from a run's checkpoints, with the counts right; damage is told."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing, contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psp_ray.core.errors import OracleError
from psp_ray.labels import SKIP, GroundTruthAnnotator, Ledger, Oracle, OracleSettings
from psp_ray.labels.accounting import LedgerAccounting
from psp_ray.labels.orders import request_id
from psp_ray.labels.restore import KnownAnswers
from psp_ray.labels.service import LabelRequest
from tests.labels.clients import truth
from tests.labels.conftest import CLASSES

PER_ROUND = 4


class Counting(GroundTruthAnnotator):
    def __init__(self, labels):
        super().__init__(labels)
        self.asked = []

    def answer(self, items):
        self.asked += [item.content_hash for item in items]
        return super().answer(items)


class SometimesSkipping(Counting):
    def answer(self, items):
        answers = super().answer(items)
        return [SKIP if int(item.sample_id[1:]) % 5 == 4 else found for item, found in zip(items, answers, strict=True)]


def ask(experiment, round):
    numbers = range((round - 1) * PER_ROUND, round * PER_ROUND)
    ids, hashes = [f"s{i}" for i in numbers], [f"hash{i}" for i in numbers]
    return LabelRequest(request_id(experiment, round), experiment, round, ids, hashes, replaces=True)


def known_after(answers, paid):
    """What a checkpoint of experiment e knows after some rounds."""
    rows = [row for response in answers for row in zip(response.sample_ids, response.labels.tolist(), strict=True)]
    rounds = np.repeat(np.arange(1, len(answers) + 1), PER_ROUND).astype(np.int32)
    ids = [name for name, _ in rows]
    hashes = [name.replace("s", "hash") for name in ids]
    return KnownAnswers("e", ids, hashes, rounds, np.array([label for _, label in rows], np.int32), paid)


@contextmanager
def opened(path):
    """The file by plain SQL; closed afterwards, or its locks would stay."""
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


def dump(path):
    """All that counts, by plain SQL."""
    with opened(path) as connection:
        labels = connection.execute("SELECT content_hash, label, cost, paid_by, request_id FROM labels ORDER BY 1")
        told = connection.execute(
            "SELECT experiment, sample_id, round, request_id, label, cost FROM uses ORDER BY 1, 2"
        )
        return labels.fetchall(), told.fetchall()


@settings(max_examples=8, deadline=None)
@given(rounds=st.integers(1, 4), lost=st.sets(st.integers(0, 15)), empty=st.booleans())
def test_whatever_was_lost_comes_back_as_it_was(tmp_path_factory, rounds, lost, empty):
    """Rows are cut out by plain SQL; what is restored is what was there, and asking again buys nothing."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    annotator = SometimesSkipping(truth())
    oracle = Oracle(path, annotator, CLASSES)
    answers = [oracle.label(ask("e", round)) for round in range(1, rounds + 1)]
    whole, paid = dump(path), answers[-1].labels_paid
    oracle.close()
    lost = {number for number in lost if number < rounds * PER_ROUND}
    if empty:
        path.write_bytes(b"")
        lost = set(range(rounds * PER_ROUND))
    else:
        with opened(path) as connection:
            for number in lost:
                connection.execute("DELETE FROM labels WHERE content_hash = ?", (f"hash{number}",))
                connection.execute("DELETE FROM uses WHERE sample_id = ?", (f"s{number}",))
    asked = len(annotator.asked)
    oracle = Oracle(path, annotator, CLASSES)
    assert oracle.restore(known_after(answers, paid)).restored == len(lost)
    assert dump(path) == whole
    assert oracle.restore(known_after(answers, paid)).restored == 0, "twice is once"
    for round in range(1, rounds + 1):
        again, first = oracle.label(ask("e", round)), answers[round - 1]
        assert again.labels.tolist() == first.labels.tolist()
        assert (again.labels_used, again.labels_paid) == (first.labels_used, first.labels_paid)
    assert len(annotator.asked) == asked, "nothing was asked for again"
    assert LedgerAccounting(oracle.ledger).check() == []
    oracle.close()


def test_a_copy_without_its_log_is_made_whole(tmp_path):
    """The database file as it was before later rounds went into it."""
    path = tmp_path / "ledger.sqlite"
    oracle = Oracle(path, GroundTruthAnnotator(truth()), CLASSES)
    first = oracle.label(ask("e", 1))
    oracle.close()
    shutil.copy(path, tmp_path / "older.sqlite")
    oracle = Oracle(path, GroundTruthAnnotator(truth()), CLASSES)
    answers = [first, oracle.label(ask("e", 2)), oracle.label(ask("e", 3))]
    oracle.close()
    older = Oracle(tmp_path / "older.sqlite", GroundTruthAnnotator(truth()), CLASSES)
    assert older.ledger.labels_paid("e") == PER_ROUND
    repair = older.restore(known_after(answers, 3 * PER_ROUND))
    assert (repair.restored, repair.paid) == (2 * PER_ROUND, 2 * PER_ROUND)
    assert older.ledger.labels_paid("e") == 3 * PER_ROUND
    older.close()


def test_reused_labels_come_back_as_nobodys_expense(tmp_path):
    """The run had found half of its labels in a shared ledger: what it paid stays what it paid."""
    oracle = Oracle(tmp_path / "a.sqlite", GroundTruthAnnotator(truth()), CLASSES)
    oracle.label(ask("other", 1))
    answers = [oracle.label(ask("e", 1)), oracle.label(ask("e", 2))]
    assert answers[-1].labels_paid == PER_ROUND
    oracle.close()
    fresh = Oracle(tmp_path / "b.sqlite", GroundTruthAnnotator(truth()), CLASSES)
    fresh.restore(known_after(answers, PER_ROUND))
    assert fresh.ledger.labels_paid("e") == PER_ROUND
    assert fresh.ledger.labels_used("e") == 2 * PER_ROUND
    assert fresh.ledger.status()["labels_imported"] == PER_ROUND
    fresh.close()


def test_another_word_without_a_correction_is_told(tmp_path):
    path = tmp_path / "ledger.sqlite"
    oracle = Oracle(path, GroundTruthAnnotator(truth()), CLASSES)
    known = known_after([oracle.label(ask("e", 1))], PER_ROUND)
    assert oracle.restore(known).differing == ()
    oracle.correct("e", {"s0": 2})
    assert oracle.restore(known).differing == (), "a correction tells why"
    with opened(path) as connection:
        connection.execute("UPDATE uses SET label = 0 WHERE sample_id = 's1'")
    assert oracle.restore(known).differing == ("s1",)
    assert LedgerAccounting(oracle.ledger).check() == ["experiment 'e', sample 's1': was told 0, but 1 was bought"]
    oracle.close()


@pytest.mark.parametrize("damage", ["header", "pages", "cut", "other"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, damage):
    path = tmp_path / "ledger.sqlite"
    oracle = Oracle(path, GroundTruthAnnotator(truth()), CLASSES)
    for round in range(1, 8):
        oracle.label(ask("e", round))
    oracle.close()
    data = bytearray(path.read_bytes())
    if damage == "header":
        data[:16] = os.urandom(16)
    elif damage == "pages":
        data[8192:] = os.urandom(len(data) - 8192)
    elif damage == "cut":
        data = data[: len(data) // 2]
    else:
        data = bytearray(b"not a database at all\n" * 500)
    path.write_bytes(bytes(data))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with pytest.raises(OracleError, match=r"ledger .*: is damaged \(.*\); put a backup") as error:
        Ledger(path)
    assert "\n" not in str(error.value)


def test_another_query_set_of_a_round_is_a_request_of_its_own(tmp_path):
    """The pool changed while the round waited: what was answered stays and is told, nothing is paid twice."""
    annotator = Counting(truth())
    oracle = Oracle(tmp_path / "ledger.sqlite", annotator, CLASSES)
    oracle.label(ask("e", 1))
    hashes = ["hash2", "hash3", "hash8"]
    other = LabelRequest(request_id("e", 1), "e", 1, ["s2", "s3", "s8"], hashes, replaces=True)
    response = oracle.label(other)
    assert annotator.asked == ["hash0", "hash1", "hash2", "hash3", "hash8"]
    assert dict(zip(response.left_ids, response.left_labels.tolist(), strict=True)) == {"s0": 0, "s1": 1}
    assert oracle.label(other).left_ids == response.left_ids
    assert oracle.label(ask("e", 1)).left_ids == ("s8",)
    assert oracle.ledger.labels_paid("e") == 5
    oracle.close()


def test_a_lease_lasts_as_long_as_its_owner_works_and_no_longer(tmp_path):
    """An annotator that thinks for several leases is not robbed; the claims of a dead client end with theirs."""
    started, go_on = threading.Event(), threading.Event()

    class Slow(Counting):
        def answer(self, items):
            started.set()
            assert go_on.wait(60)
            return super().answer(items)

    path, lease = tmp_path / "ledger.sqlite", OracleSettings(lease_seconds=0.4)
    slow, quick = Oracle(path, Slow(truth()), CLASSES, lease), Counting(truth())
    thread = threading.Thread(target=lambda: slow.label(ask("e", 1)))
    thread.start()
    assert started.wait(60)
    with opened(path) as reader:
        until = "SELECT max(lease_until) FROM labels"
        (first,) = reader.execute(until).fetchone()
        deadline = time.monotonic() + 60
        while reader.execute(until).fetchone()[0] <= first + 1.0:
            assert time.monotonic() < deadline, "the lease is not prolonged"
            time.sleep(0.05)
    go_on.set()
    thread.join()
    other = Oracle(path, quick, CLASSES, lease)
    assert other.label(ask("f", 1)).newly_paid == 0
    assert quick.asked == []
    with opened(path) as connection:  # a client that claimed and died
        connection.execute(
            "INSERT INTO labels SELECT label_space, annotator, 'hash40', NULL, strftime('%s','now') - 1, cost, 'dead', "
            "NULL, 'dead/1' FROM labels LIMIT 1"
        )
    assert other.label(LabelRequest("f/2", "f", 2, ["s40"], ["hash40"])).newly_paid == 1
    for oracle in (slow, other):
        oracle.close()
