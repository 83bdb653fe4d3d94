"""An experiment goes on with renamed and more classes: its labels come with it, and others keep theirs."""

import pytest

from psp_ray.core.errors import OracleError
from psp_ray.labels import SKIP, Ledger, Oracle
from psp_ray.labels.accounting import account
from psp_ray.labels.spaces import take_classes
from tests.labels.clients import request
from tests.labels.conftest import CLASSES
from tests.labels.test_answers import Person

MORE = ("cat", "hound", "owl", "eel")


@pytest.fixture
def person():
    return Person({"s0": 0, "s1": 1, "s2": 1, "s3": SKIP, "s4": 2}, cost=2.0)


@pytest.fixture
def shared(ledger_url, person):
    """e asked about images 0..3, f about 0 and 1 as well, which e paid for; image 1 was corrected."""
    with Ledger(ledger_url) as ledger:
        Oracle(ledger, person, CLASSES).label(request("e1", "e", 1, range(4)))
        Oracle(ledger, person, CLASSES).label(request("f1", "f", 1, range(2)))
        Oracle(ledger, person, CLASSES).correct("e", {"s1": 2})
        yield ledger


def test_labels_counts_and_corrections_come_along(shared, person):
    before = {name: (shared.history(name), shared.labels_paid(name), shared.cost_paid(name)) for name in "ef"}
    assert take_classes(shared, "e", MORE)
    assert not take_classes(shared, "e", MORE), "once is enough"
    after = {name: (shared.history(name), shared.labels_paid(name), shared.cost_paid(name)) for name in "ef"}
    assert before == after
    assert sum(account(shared)["cost"].to_pylist()) == 3 * 2.0, "nobody pays twice"
    answer = Oracle(shared, person, MORE).label(request("e2", "e", 2, [0, 4]))
    assert answer.labels.tolist() == [0, 2]
    assert answer.newly_paid == 1
    assert dict(zip(answer.corrected_ids, answer.corrected_labels.tolist(), strict=True)) == {"s1": 2}
    assert person.asked[-1] == ["s4"]
    # A correction of one reaches the other no more: they are about different lists of classes.
    Oracle(shared, person, MORE).correct("e", {"s0": 3})
    assert [use.label for use in shared.history("f")] == [0, 2]
    assert [use.label for use in shared.history("e")] == [3, 2, 1, SKIP, 2]
    assert Oracle(shared, person, CLASSES).label(request("f2", "f", 2, [2])).labels.tolist() == [1]


def test_what_somebody_bought_there_already_stays(shared, person):
    Oracle(shared, Person({"s0": 3}), MORE).label(request("g1", "g", 1, [0]))
    take_classes(shared, "e", MORE)
    assert [use.label for use in shared.history("g")] == [3]
    assert [use.label for use in shared.history("e")] == [0, 2, 1, SKIP]


def test_fewer_classes_and_strangers(shared):
    with pytest.raises(OracleError, match="3 classes, so not 2"):
        take_classes(shared, "e", MORE[:2])
    assert not take_classes(shared, "nobody", MORE)
