"""One oracle for many experiments, without a cluster."""

import threading

import numpy as np
import pytest

from psp_ray.core.errors import BudgetError, OracleError
from psp_ray.core.names import Digests
from psp_ray.labels import Item, Ledger, label_space_of
from psp_ray.labels.annotators.simulated import SimulatedAnnotators, SimulatedGroup
from psp_ray.labels.service import LabelRequest
from psp_ray.labels.shared import Enrollment, NotEnrolled, Question, SharedOracle
from psp_ray.labels.votes import load_votes
from tests.labels.clients import request
from tests.labels.conftest import CLASSES

SPACE = label_space_of(CLASSES)


def enrollment(numbers, classes=CLASSES):
    return Enrollment(list(classes), [f"hash{i}" for i in numbers], np.array([i % 3 for i in numbers], np.int32))


def question(*parts, label_cap=None):
    return Question(SPACE, request(*parts), label_cap, None)


def test_experiments_pay_once_and_a_new_oracle_forgets_nothing_but_the_truth(ledger_url):
    with Ledger(ledger_url) as ledger:
        oracle = SharedOracle("one", ledger)
        with pytest.raises(NotEnrolled, match="knows no class of some images of 'a'"):
            oracle.label(question("a1", "a", 1, range(10)))
        oracle.enroll(enrollment(range(12)))
        assert oracle.label(question("a1", "a", 1, range(10))).labels.tolist() == [i % 3 for i in range(10)]
        assert oracle.label(question("b1", "b", 1, range(5, 12))).newly_paid == 2
        with pytest.raises(NotEnrolled):
            oracle.label(question("b2", "b", 2, [12]))
        assert oracle.requests == 2
        with pytest.raises(BudgetError, match="label_cap 10: experiment 'a'"):
            oracle.label(question("a2", "a", 2, [10], label_cap=10))
        again = SharedOracle("one", ledger)
        again.enroll(enrollment(range(12)))
        assert again.label(question("a1", "a", 1, range(10))).newly_paid == 10, "a request repeats its answer"
        assert ledger.status()["labels_bought"] == 12


def test_data_sets_that_contradict_each_other_are_refused(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        oracle = SharedOracle("one", ledger)
        oracle.enroll(enrollment(range(3)))
        with pytest.raises(OracleError, match="image hash1 has class 'cat' here but 'dog' in an earlier one"):
            oracle.enroll(Enrollment(list(CLASSES), ["hash1"], np.zeros(1, np.int32)))
        oracle.enroll(Enrollment(["dog", "cat", "owl"], ["hash1"], np.zeros(1, np.int32)))  # other classes


def test_a_data_set_may_enroll_with_hashes_as_bytes(tmp_path):
    hashes = [f"{i:032x}" for i in range(6)]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        oracle = SharedOracle("one", ledger)
        oracle.enroll(Enrollment(list(CLASSES), Digests.of(hashes), np.arange(6, dtype=np.int32) % 3))
        asked = LabelRequest("a1", "a", 1, ["x", "y"], [hashes[4], hashes[2]])
        assert oracle.label(Question(SPACE, asked, None, None)).labels.tolist() == [1, 2]
        with pytest.raises(OracleError, match=f"image {hashes[3]} has class 'owl' here but"):
            oracle.enroll(Enrollment(list(CLASSES), Digests.of(hashes[3:4]), np.full(1, 2, np.int32)))
        with pytest.raises(ValueError, match="labels don't fit"):
            Enrollment(list(CLASSES), Digests.of(hashes), np.zeros(5, np.int32))


def test_votes_are_those_of_one_group_and_entered_under_who_pays(ledger_url):
    people = [{"name": name, "cost": 0.1, "accuracy": 0.7} for name in ("ann", "bob", "cem")]
    group = SimulatedGroup(annotators=people, aggregation="dawid-skene")
    alone = SimulatedAnnotators({f"hash{i}": i % 3 for i in range(60)}, group, 3)
    with Ledger(ledger_url) as ledger:
        oracle = SharedOracle("noisy", ledger, group)
        assert oracle.annotators == group.digest
        oracle.enroll(enrollment(range(60)))
        found, failed = {}, []

        def ask(name, numbers):
            try:
                found[name] = oracle.label(question(f"{name}1", name, 1, numbers)).labels.tolist()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=ask, args=pair) for pair in (("a", range(30)), ("b", range(20, 60)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert not failed
        assert found["a"][20:] == found["b"][:10], "one label for both"
        votes = load_votes(ledger, SPACE, group.digest)
        assert len(votes) == 180
        told = []
        alone.answer([Item(f"hash{i}", f"hash{i}") for i in range(60)], told.extend)
        assert sorted(votes, key=str) == sorted(told, key=str), "the same votes as anywhere"
