"""Several annotators: aggregation against crowd-kit's and by hand, simulated mistakes, prices."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psp_ray.core.errors import ConfigError, OracleError
from psp_ray.labels import Item, Oracle
from psp_ray.labels.annotators.simulated import SimulatedAnnotators, SimulatedGroup, load_group
from psp_ray.labels.votes import load_votes, record_votes, vote_counts
from psp_ray.labels.voting import dawid_skene, majority
from psp_ray.run.build import OracleInput, build_oracle, settings_json
from psp_ray.run.command import prepare
from psp_ray.run.resolve import resolve
from tests.labels.clients import request, truth
from tests.labels.conftest import CLASSES

REFERENCE = json.loads((Path(__file__).parent / "data" / "dawid_skene.json").read_text())


def columns(rows):
    items, annotators, votes = np.array(rows).T
    return items, annotators, votes.astype(np.int32)


def test_dawid_skene_against_crowd_kit():
    items, people, votes = columns(REFERENCE["votes"])
    labels, chances, confusion = dawid_skene(
        items, people, votes, 60, 5, 3, n_iter=1000, tolerance=1e-10, smoothing=1e-9
    )
    assert labels.tolist() == REFERENCE["labels"]
    np.testing.assert_allclose(chances, REFERENCE["probabilities"], atol=1e-4)
    for mine, theirs in zip(confusion, REFERENCE["confusion"], strict=True):
        np.testing.assert_allclose(mine.T, theirs, atol=1e-4)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40))
def test_majority_against_counting(pairs):
    items, votes = np.array(pairs).T
    labels = majority(items, votes.astype(np.int32), 6, 4)
    for item in range(6):
        counts = Counter(votes[items == item].tolist())
        most = max(counts.values(), default=0)
        assert labels[item] == min((c for c in counts if counts[c] == most), default=0)


def test_dawid_skene_finds_the_good_annotators_where_the_majority_errs():
    """Two experts against three who mostly say class 0."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 300)
    rows = []
    for item, label in enumerate(true):
        for annotator in range(5):
            expert = annotator < 2
            right = rng.random() < (0.97 if expert else (0.95 if label == 0 else 0.3))
            rows.append((item, annotator, label if right else 1 - label))
    items, people, votes = columns(rows)
    smart, _, _ = dawid_skene(items, people, votes, 300, 5, 2)
    plain = majority(items, votes, 300, 2)
    assert (smart == true).mean() > (plain == true).mean() + 0.1


def three(**more):
    people = [
        {"name": "ann", "cost": 1.0, "accuracy": 0.95},
        {"name": "bob", "cost": 0.2, "accuracy": 0.6},
        {"name": "cem", "cost": 0.3, "confusion": [[0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.5, 0.5, 0.0]]},
    ]
    return SimulatedGroup(annotators=people, **more)


def items(numbers):
    return [Item(f"s{i}", f"hash{i}") for i in numbers]


def test_mistakes_follow_the_confusion_matrix_and_depend_on_the_image_alone():
    many = {f"s{i}": i % 3 for i in range(6000)}
    told = []
    annotator = SimulatedAnnotators(many, three(), 3)
    annotator.answer(items(range(6000)), told.extend)
    found = np.zeros((3, 3, 3))
    places = {"ann": 0, "bob": 1, "cem": 2}
    for vote in told:
        found[places[vote.annotator], int(vote.content_hash[4:]) % 3, vote.label] += 1
    found /= found.sum(axis=2, keepdims=True)
    expected = [np.full((3, 3), 0.025) + 0.925 * np.eye(3), np.full((3, 3), 0.2) + 0.4 * np.eye(3)]
    np.testing.assert_allclose(found[0], expected[0], atol=0.04)
    np.testing.assert_allclose(found[1], expected[1], atol=0.04)
    np.testing.assert_allclose(found[2], three().annotators[2].confusion, atol=0.04)
    again = []
    other = SimulatedAnnotators(many, three(), 3)
    other.answer(items(reversed(range(100))), again.extend)
    assert {(v.content_hash, v.annotator): v.label for v in again}.items() <= {
        (v.content_hash, v.annotator): v.label for v in told
    }.items()


@pytest.mark.parametrize("aggregation", ["majority", "dawid-skene"])
def test_votes_are_durable_priced_and_not_asked_twice(ledger_url, aggregation):
    from psp_ray.labels import Ledger

    group = three(votes=2, aggregation=aggregation)
    annotator = SimulatedAnnotators(truth(), group, 3)
    assert annotator.cost == pytest.approx(1.3), "the two most expensive"
    with Ledger(ledger_url) as ledger:
        oracle = Oracle(ledger, annotator, CLASSES)
        first = oracle.label(request("r1", "e", 1, range(30)))
        assert (first.labels == [i % 3 for i in range(30)]).mean() > 0.4
        told = []
        fresh = SimulatedAnnotators(truth(), group, 3)
        fresh.answer(items(range(30)), told.extend)
        record_votes(ledger, oracle.label_space, annotator.name, "e", told)
        record_votes(ledger, oracle.label_space, annotator.name, "f", told)
        assert len(load_votes(ledger, oracle.label_space, annotator.name)) == 60
        pay = {row["annotator"]: row for row in vote_counts(ledger)}
        assert sum(row["answers"] for row in pay.values()) == 60
        assert pay["bob"]["cost"] == pytest.approx(0.2 * pay["bob"]["answers"])
        known = SimulatedAnnotators(truth(), group, 3, load_votes(ledger, oracle.label_space, annotator.name))
        asked = []
        assert known.answer(items(range(30)), asked.extend) == fresh.answer(items(range(30)))
        assert asked == []


def test_a_resumed_run_gets_the_labels_of_one_that_was_not_interrupted(tmp_path):
    """Dawid-Skene learns from all votes so far who is to be trusted; a new process must know them."""
    numbers = range(100)
    path = tmp_path / "annotators.yaml"
    path.write_text(
        "aggregation: dawid-skene\nannotators:\n  - {name: a, accuracy: 0.9, cost: 0.1}\n"
        "  - {name: b, accuracy: 0.5}\n  - {name: c, accuracy: 0.4}\n"
    )
    config = resolve({"dataset": "digits", "annotators": str(path)})

    def oracle(name):
        return build_oracle(
            OracleInput(
                settings_json(config),
                list(CLASSES),
                str(tmp_path / f"{name}.sqlite"),
                [f"s{i}" for i in numbers],
                np.array([i % 3 for i in numbers], np.int32),
                experiment="e",
            )
        )

    def ask(oracle, number):
        return oracle.label(request(f"r{number}", "e", number, numbers[20 * number : 20 * number + 20])).labels.tolist()

    whole = oracle("whole")
    expected = [ask(whole, number) for number in range(5)]
    assert [ask(oracle("pieces"), number) for number in range(5)] == expected
    alone = SimulatedAnnotators(truth(100), load_group(path), 3)
    assert alone.answer(items(range(80, 100))) != expected[4], "the votes before make a difference"
    pay = {row["annotator"]: row for row in vote_counts(whole.ledger)}
    assert pay["a"]["answers"] == 100
    assert pay["a"]["cost"] == pytest.approx(10.0)


def test_annotators_are_checked_before_a_run(tmp_path):
    path = tmp_path / "annotators.yaml"
    path.write_text("annotators: [{name: a, confusion: [[1, 0], [0, 1]]}]")
    for settings_given, message in [
        ({"annotators": str(tmp_path / "nope.yaml")}, "nope.yaml: can't be read"),
        ({"annotators": str(path)}, "2 x 2 but the data set has 10 classes"),
        ({"annotators": str(path), "oracle": "shared"}, "a shared oracle has its own"),
        ({"annotators": str(path), "oracle": "file"}, "--oracle file would not ask them"),
    ]:
        with pytest.raises(ConfigError, match=message):
            prepare(resolve({"dataset": "digits"} | settings_given))


def test_descriptions_are_checked(tmp_path):
    path = tmp_path / "annotators.yaml"
    path.write_text("votes: 2\nannotators:\n  - {name: ann, accuracy: 0.9}\n  - {name: bob, cost: 0.1}\n")
    assert load_group(path).annotators[1].cost == 0.1
    path.write_bytes("annotators: [{name: Zoé}]".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_group(path)
    for text, message in [
        ("annotators: []", "at least 1"),
        ("annotators: [{name: a}, {name: a}]", "names must differ"),
        ("annotators: [{name: a, confusion: [[0.5, 0.4], [0, 1]]}]", "summing to 1"),
        ("annotators: [{name: a, acuracy: 1}]", "acuracy"),
        ("- 1", "expected keys"),
        ("a: [", "not valid YAML"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_group(path)
    group = SimulatedGroup(annotators=[{"name": "a", "confusion": [[1, 0], [0, 1]]}])
    with pytest.raises(ConfigError, match="2 x 2 but the data set has 3"):
        SimulatedAnnotators(truth(), group, 3)
    with pytest.raises(OracleError, match="'s99'"):
        SimulatedAnnotators(truth(), three(), 3).answer(items([99]))
