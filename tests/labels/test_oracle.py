"""The oracle in one process: answers, counts, caps, errors."""

import threading

import numpy as np
import pyarrow as pa
import pytest

from psp_ray.core.errors import BudgetError, ConfigError, OracleError
from psp_ray.labels import (
    ANNOTATORS,
    SKIP,
    Annotator,
    AnnotatorInput,
    AwaitingLabels,
    GroundTruthAnnotator,
    Item,
    LabelRequest,
    Ledger,
    Oracle,
    OracleSettings,
    make_annotator,
)
from tests.labels.clients import request, truth
from tests.labels.conftest import CLASSES


class Counting(GroundTruthAnnotator):
    def __init__(self, labels, **arguments):
        super().__init__(labels, **arguments)
        self.asked = []

    def answer(self, items):
        self.asked += [item.content_hash for item in items]
        return super().answer(items)


@pytest.fixture
def oracle(ledger_url):
    with Ledger(ledger_url) as ledger:
        yield Oracle(ledger, Counting(truth()), CLASSES)


def other(oracle, annotator=None, classes=CLASSES, **settings):
    return Oracle(oracle.ledger, annotator or Counting(truth()), classes, OracleSettings(**settings))


def test_answers_in_the_order_asked(oracle):
    response = oracle.label(request("r", "e", 1, [5, 1, 3]))
    assert response.sample_ids == ("s5", "s1", "s3")
    assert response.labels.dtype == np.int32
    assert response.labels.tolist() == [2, 1, 0]
    assert (response.newly_paid, response.labels_used, response.labels_paid) == (3, 3, 3)
    assert [(use.sample_id, use.round, use.label) for use in oracle.ledger.history("e")] == [
        ("s5", 1, 2),
        ("s1", 1, 1),
        ("s3", 1, 0),
    ]


def test_repeated_request_repeats_its_answer_even_after_later_rounds(oracle):
    first = oracle.label(request("r1", "e", 1, [0, 1]))
    oracle.label(request("r2", "e", 2, [2, 3]))
    again = oracle.label(request("r1", "e", 1, [1, 0]))  # the order is not part of the set
    assert again.labels.tolist() == first.labels.tolist()[::-1]
    assert (again.newly_paid, again.labels_used, again.labels_paid) == (2, 2, 2)
    assert oracle.annotator.asked == ["hash0", "hash1", "hash2", "hash3"]


@pytest.mark.parametrize(
    "changed", [("e", 1, [0, 2]), ("e", 1, [0]), ("e", 1, [0, 1, 2]), ("e", 2, [0, 1]), ("f", 1, [0, 1])]
)
def test_request_id_with_other_samples_is_refused(oracle, changed):
    oracle.label(request("r1", "e", 1, [0, 1]))
    with pytest.raises(OracleError, match="'r1' was made before"):
        oracle.label(request("r1", *changed))
    assert oracle.annotator.asked == ["hash0", "hash1"]
    assert oracle.ledger.labels_used("e") == 2
    assert oracle.ledger.labels_used("f") == 0


def test_same_bytes_are_paid_once_and_both_answered(oracle):
    response = oracle.label(LabelRequest("r", "e", 1, ("s1", "s4", "s2"), ("x", "x", "y")))
    assert response.labels.tolist() == [1, 1, 2]
    assert (response.newly_paid, response.labels_used, response.labels_paid) == (2, 3, 2)
    assert oracle.annotator.asked == ["x", "y"]
    later = oracle.label(LabelRequest("r2", "e", 2, ("s7",), ("x",)))
    assert (later.newly_paid, later.labels_used, later.labels_paid) == (0, 4, 2)


def test_reuse_by_another_experiment_is_free_and_gives_the_same_labels(oracle):
    oracle.label(request("r1", "e", 1, [0, 1, 2]))
    second = other(oracle)
    response = second.label(request("q1", "f", 1, [2, 1, 9]))
    assert response.labels.tolist() == [2, 1, 0]
    assert (response.newly_paid, response.labels_used, response.labels_paid) == (1, 3, 1)
    assert second.annotator.asked == ["hash9"]
    assert oracle.ledger.labels_paid("e") == 3


def test_label_space_and_annotator_are_part_of_the_key(oracle):
    oracle.label(request("r1", "e", 1, [0]))
    for number, fresh in enumerate(
        [other(oracle, classes=("dog", "cat", "owl")), other(oracle, Counting(truth(), name="expert"))]
    ):
        response = fresh.label(request(f"q{number}", f"f{number}", 1, [0]))
        assert response.newly_paid == 1


def test_experiment_keeps_its_classes_and_its_annotator(oracle):
    oracle.label(request("r1", "e", 1, [0]))
    with pytest.raises(OracleError, match="begun with other classes"):
        other(oracle, classes=("a", "b", "c")).label(request("r2", "e", 2, [1]))
    with pytest.raises(OracleError, match="annotator 'ground-truth', not 'expert'"):
        other(oracle, Counting(truth(), name="expert")).label(request("r2", "e", 2, [1]))


def test_asking_again_for_a_sample_uses_it_once(oracle):
    oracle.label(request("r1", "e", 1, [0, 1]))
    response = oracle.label(request("r2", "e", 2, [1, 2]))
    assert response.labels.tolist() == [1, 2]
    assert (response.newly_paid, response.labels_used) == (1, 3)


def test_changed_image_is_refused(oracle):
    oracle.label(request("r1", "e", 1, [0]))
    with pytest.raises(OracleError, match="'s0' has changed"):
        oracle.label(LabelRequest("r2", "e", 2, ("s0",), ("another",)))


def test_label_cap_counts_used_labels_and_is_never_overrun(oracle):
    oracle.label(request("r1", "e", 1, [0, 1, 2]))
    capped = other(oracle, label_cap=4)
    assert capped.label(request("q1", "f", 1, [0, 1, 2])).labels_paid == 0
    with pytest.raises(BudgetError, match=r"label_cap 4.*has 3 labels and round 2 needs 2 more"):
        capped.label(request("q2", "f", 2, [3, 4]))
    assert capped.annotator.asked == []
    assert oracle.ledger.labels_used("f") == 3
    assert capped.label(request("q2", "f", 2, [3])).labels_used == 4, "a refused request id may be used again"
    assert capped.label(request("q2", "f", 2, [3])).labels_used == 4, "a repeated one costs nothing"
    with pytest.raises(BudgetError):
        capped.label(request("q3", "f", 3, [5]))


def test_cost_cap_is_exact_at_its_edge(oracle):
    priced = other(oracle, Counting(truth(), cost=0.1), cost_cap=0.3)
    assert priced.label(request("q1", "f", 1, [0, 1])).labels_used == 2
    assert priced.label(request("q2", "f", 2, [2])).labels_used == 3
    with pytest.raises(BudgetError, match=r"cost_cap 0\.3"):
        priced.label(request("q3", "f", 3, [3]))
    assert oracle.ledger.cost_paid("f") == pytest.approx(0.3)
    assert priced.annotator.asked == ["hash0", "hash1", "hash2"]


def test_caps_hold_among_threads_of_one_experiment(oracle):
    """Twelve requests of five race for a cap of 23: four may win, whatever their order."""
    outcomes = []

    def ask(number):
        mine = other(oracle, label_cap=23)
        try:
            mine.label(request(f"q{number}", "f", 1, range(5 * number, 5 * number + 5)))
            outcomes.append("bought")
        except BudgetError:
            outcomes.append("refused")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["bought"] * 4 + ["refused"] * 8
    assert oracle.ledger.labels_used("f") == oracle.ledger.labels_paid("f") == 20


def test_missing_ground_truth_names_the_sample_and_buys_nothing(oracle):
    with pytest.raises(OracleError, match="'s99' has no ground-truth label"):
        oracle.label(request("r1", "e", 1, [0, 99]))
    assert oracle.ledger.status()["labels_claimed"] == 0
    assert oracle.ledger.labels_used("e") == 0
    response = oracle.label(request("r1", "e", 1, [0]))  # nothing was bought, so the id is free again
    assert response.labels_paid == 1


def test_what_was_bought_before_an_annotator_failed_stays(oracle):
    class Flaky(Counting):
        batch_size = 2

        def answer(self, items):
            if len(self.asked) >= 4:
                raise OracleError("the service is away")
            return super().answer(items)

    flaky = other(oracle, Flaky(truth()))
    with pytest.raises(OracleError, match="away"):
        flaky.label(request("r1", "e", 1, range(7)))
    assert oracle.ledger.labels_paid("e") == 4
    assert oracle.ledger.status()["labels_claimed"] == 0
    with pytest.raises(OracleError, match="made before"):
        oracle.label(request("r1", "e", 1, range(6)))
    response = oracle.label(request("r1", "e", 1, range(7)))
    assert (response.newly_paid, response.labels_used, response.labels_paid) == (7, 7, 7)
    assert oracle.annotator.asked == ["hash4", "hash5", "hash6"]


@pytest.mark.parametrize("answer", [[3], [-3], [0.5], [], [0, 0]])
def test_nonsense_from_an_annotator_is_not_bought(oracle, answer):
    class Broken(Counting):
        def answer(self, items):
            return answer

    with pytest.raises(OracleError, match="'ground-truth' gave"):
        other(oracle, Broken(truth())).label(request("r1", "e", 1, [0]))
    assert oracle.ledger.status()["labels_bought"] == 0


def test_waits_for_another_clients_claim_and_reuses_it(oracle):
    started, proceed = threading.Event(), threading.Event()

    class Slow(Counting):
        def answer(self, items):
            started.set()
            assert proceed.wait(30)
            return super().answer(items)

    slow, answers = other(oracle, Slow(truth())), []
    buyer = threading.Thread(target=lambda: answers.append(slow.label(request("r1", "e", 1, [0, 1]))))
    buyer.start()
    assert started.wait(30)
    impatient = other(oracle, wait_seconds=0.05)
    with pytest.raises(OracleError, match=r"being labeled for experiment 'e'.*go on with --resume"):
        impatient.label(request("q1", "f", 1, [1, 2]))
    assert impatient.annotator.asked == ["hash2"], "its own part is bought before it waits"
    patient = other(oracle)
    waiter = threading.Thread(target=lambda: answers.append(patient.label(request("q1", "f", 1, [1, 2]))))
    waiter.start()
    proceed.set()
    for thread in (buyer, waiter):
        thread.join(30)
    assert [answer.labels.tolist() for answer in sorted(answers, key=lambda a: a.sample_ids)] == [[0, 1], [1, 2]]
    assert patient.annotator.asked == []
    assert oracle.ledger.status()["labels_bought"] == 3


def test_late_answer_after_a_lost_lease_changes_nothing(oracle):
    """The first durable answer stays; the loser is told it, and the ledger has one purchase."""
    rival = other(oracle)

    class Slow(Counting):
        def answer(self, items):
            rival.label(request("q1", "f", 1, [0]))
            return [2]

    slow = other(oracle, Slow(truth()), lease_seconds=1e-9)
    response = slow.label(request("r1", "e", 1, [0]))
    assert response.labels.tolist() == [0]
    assert (response.newly_paid, response.labels_paid) == (0, 0)
    assert oracle.ledger.labels_paid("f") == 1


def test_large_requests_go_in_chunks(oracle):
    many = other(oracle, Counting(truth(2500)))
    response = many.label(request("r1", "e", 1, range(2500)))
    assert response.labels.tolist() == [i % 3 for i in range(2500)]
    assert response.labels_paid == 2500


def test_empty_request(oracle):
    response = oracle.label(LabelRequest("r1", "e", 1, (), ()))
    assert response.labels.shape == (0,)
    assert response.labels_used == 0


def test_malformed_requests():
    with pytest.raises(ValueError, match="distinct"):
        LabelRequest("r", "e", 1, ("a", "a"), ("x", "y"))
    with pytest.raises(ValueError, match="content_hashes"):
        LabelRequest("r", "e", 1, ("a", "b"), ("x",))


def test_status(oracle):
    oracle.label(request("r1", "e", 1, [0, 1]))
    oracle.label(request("q1", "f", 1, [1]))
    status = oracle.status()
    assert (status["labels_bought"], status["labels_claimed"], status["cost"]) == (2, 0, 2.0)
    assert [(row["experiment"], row["labels_used"], row["labels_paid"]) for row in status["experiments"]] == [
        ("e", 2, 2),
        ("f", 1, 0),
    ]
    assert status["annotator"] == "ground-truth"


def test_ground_truth_from_a_table():
    table = pa.table({"sample_id": ["a", "b", "c"], "label": pa.array([2, None, 0], pa.int32())})
    annotator = GroundTruthAnnotator.from_table(table)
    assert annotator.answer([Item("c", "c"), Item("a", "a")]) == [0, 2]
    with pytest.raises(OracleError, match="'b'"):
        annotator.answer([Item("b", "b")])


def test_annotators_by_name():
    assert {"ground-truth", "file", "simulated", "shared"} <= set(ANNOTATORS.names())
    assert all(entry.summary for entry in ANNOTATORS)
    assert ANNOTATORS.broken == []
    assert make_annotator("ground-truth", AnnotatorInput(CLASSES, {"a": 1})).answer([Item("a", "x")]) == [1]
    with pytest.raises(ConfigError, match="--oracle ground-thruth: unknown annotator; did you mean 'ground-truth'"):
        make_annotator("ground-thruth", AnnotatorInput(CLASSES))
    with pytest.raises(ConfigError, match="registered already"):
        ANNOTATORS.register("ground-truth")(Counting)
    with pytest.raises(ConfigError, match="needs --annotators FILE"):
        make_annotator("simulated", AnnotatorInput(CLASSES))
    with pytest.raises(OracleError, match="asked in its cluster"):
        make_annotator("shared", AnnotatorInput(CLASSES))
    with pytest.raises(OracleError, match="images are not known"):
        make_annotator("file", AnnotatorInput(CLASSES))


def test_an_annotator_of_ones_own_may_answer_with_names(ledger_url):
    class Names(Annotator):
        cost = 0.25

        def answer(self, items):
            return [{"s0": "Owl", "s1": "skip", "s2": None}.get(item.sample_id, "cow") for item in items]

    names = Names.of(AnnotatorInput(CLASSES))
    names.name = "names"
    with Ledger(ledger_url) as ledger:
        oracle = Oracle(ledger, names, CLASSES)
        assert oracle.label(request("r1", "e", 1, [0, 1])).labels.tolist() == [2, SKIP]
        assert ledger.cost_paid("e") == 0.25
        with pytest.raises(AwaitingLabels, match="waiting for 1 of 1 label: names"):
            oracle.label(request("r2", "e", 2, [2]))
        with pytest.raises(OracleError, match=r"'names': sample 's3': 'cow' is no class \(did you mean 'owl'\?\)"):
            oracle.label(request("r3", "e", 2, [3]))


@pytest.mark.parametrize("bad", [{"label_cap": -1}, {"cost_cap": float("nan")}, {"lease_seconds": 0}])
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError, match=next(iter(bad)).replace("_", "-")):
        OracleSettings(**bad)
