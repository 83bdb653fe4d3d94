"""A run driven step by step: the same state, ledger and bits as the command line, whoever does which round."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file
from sklearn.metrics import confusion_matrix

import psp_ray
from psp_ray.core.answers import AwaitingLabels
from psp_ray.core.errors import ConfigError, OutputError, UserError
from psp_ray.labels.ledger import Ledger
from psp_ray.report.progress import Reporter
from psp_ray.run.command import run
from psp_ray.run.continuing import continued
from psp_ray.run.events import Silent
from psp_ray.run.explaining import explain
from psp_ray.run.resolve import resolve
from tests.helpers import Hearing

ROUNDS = 3


@pytest.fixture(scope="module")
def settings(tiny_model, cache_folder):
    return {
        "model": tiny_model,
        "cache": str(cache_folder),
        "rounds": ROUNDS,
        "labels_per_round": 4,
        "audit_fraction": 0.25,
        "learning_steps": 4,
        "update_steps": 2,
        "pictures": False,
        "views": "2",
        "threads": 1,
    }


def by_command(folder, out, settings, **more):
    config = resolve({**settings, "dataset": str(folder), "out": str(out), "runner": "inline", **more})
    return run(config, Reporter(ROUNDS, Console(quiet=True)))


def truth(name):
    return name.split("/")[0]


def answer(session):
    session.label({name: truth(name) for name in session.propose().open})


def what_it_computed(out):
    """All but times, versions and who answered."""
    summary = json.loads((out / "summary.json").read_text())
    for key in ("wall_seconds", "versions", "oracle"):
        summary.pop(key)
    for row in summary["rounds"]:
        row.pop("seconds"), row.pop("wall_seconds")
    tables = {name: pq.read_table(out / f"{name}.parquet") for name in ("labels", "policy", "pool_predictions")}
    tensors = {key: value.tobytes() for key, value in load_file(out / "prompts.safetensors").items()}
    return summary, tables, tensors


@pytest.fixture(scope="module")
def by_truth(tmp_path_factory, tiny_folder, settings):
    """The run that the command line makes where the answers are known."""
    out = tmp_path_factory.mktemp("known") / "run"
    by_command(tiny_folder, out, settings)
    return out


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory, tiny_folder, settings):
    """The same by a session, with the middle round's wait on the command line."""
    out = tmp_path_factory.mktemp("hand") / "run"
    with psp_ray.Session(tiny_folder, out=out, **settings) as session:
        answer(session)
        session.learn()
        first = session.propose()
        session.label({first.ids[0]: truth(first.ids[0])})
    waiting = by_command(tiny_folder, out, settings, oracle="people", resume=True)
    with psp_ray.Session.load(out) as session:
        again = session.propose()
        answer(session)
        session.learn()
    assert (waiting["status"], waiting["awaiting"]["missing"]) == ("awaiting_labels", 3)
    assert again.ids == first.ids
    assert list(again.answers) == [first.ids[0]]
    with psp_ray.Session.load(out) as session:
        answer(session)
    by_command(tiny_folder, out, settings, oracle="people", resume=True)
    return out


def test_the_same_answers_give_the_same_bits(by_truth, by_hand):
    known, hand = what_it_computed(by_truth), what_it_computed(by_hand)
    assert known[0] == hand[0]
    assert all(known[1][name].equals(hand[1][name]) for name in known[1])
    assert known[2] == hand[2]


def test_the_same_ledger(by_truth, by_hand):
    def told(out):
        with Ledger(out / "ledger.sqlite") as ledger:
            (row,) = ledger.status()["experiments"]
            return [row["labels_used"], row["labels_paid"], row["cost_paid"], ledger.history(row["experiment"])]

    assert told(by_truth) == told(by_hand)


def test_importing_the_package_imports_no_torch():
    code = "import sys, psp_ray; assert 'torch' not in sys.modules; print(len(psp_ray.__all__))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "3\n"


@pytest.fixture
def session(tmp_path, tiny_folder, settings):
    with psp_ray.Session(tiny_folder, out=tmp_path / "run", **settings) as opened:
        yield opened


def test_a_round_and_what_it_tells(session, tiny_folder):
    queries = session.propose()
    assert (len(queries), queries.round, queries.by_chance.sum()) == (4, 1, 1)
    np.testing.assert_allclose(queries.probabilities.sum(axis=1), 1, rtol=1e-5)
    assert queries.suggestions == [queries.classes[i] for i in queries.probabilities.argmax(axis=1)]
    with pytest.raises(AwaitingLabels) as waiting:
        session.learn()
    assert (waiting.value.missing, waiting.value.asked) == (4, 4)
    assert session.label({queries.ids[0]: "red", queries.ids[1]: 2, queries.ids[2]: "skip"}) == 1
    assert session.propose().answers == {queries.ids[0]: 2, queries.ids[1]: 2, queries.ids[2]: -1}
    answer(session)
    report = session.learn()
    assert (report.labels_new, report.skipped, report.round, session.round) == (3, 1, 1, 1)
    assert not session.advice.stop
    assert "round 3" in str(session.advice)
    for shown in (session.propose(), session):
        assert "<" in shown._repr_html_()
    assert session._repr_html_().count("<tr>") == 2
    assert queries._repr_html_().count("data:image/jpeg;base64,") == 4


def test_what_is_wrong_is_refused_and_nothing_is_written(session):
    name = session.propose().ids[0]
    for answers, says in (
        ({name: "redd"}, "did you mean 'red'"),
        ({name: "red", "nobody.png": "red"}, "no image of the pool"),
        ({name: 3}, r"0\.\.2"),
        ({name: ""}, "empty"),
    ):
        with pytest.raises(UserError, match=says):
            session.label(answers)
    assert not session.propose().answers


def test_a_correction_after_learning(session):
    answer(session)
    wrong = session.propose().ids[0]
    session.label({wrong: "blue" if truth(wrong) != "blue" else "red"})
    session.learn()
    before = session.state.answers[0]
    session.label({wrong: truth(wrong)})
    answer(session)
    session.learn()
    assert session.classes_[session.state.answers[0]] == truth(wrong) != session.classes_[before]
    (correction,) = session.rounds.people.ledger.corrections()
    assert (correction.previous, correction.label) == (before, session.state.answers[0])


def test_learning_from_part_of_a_query_set(session):
    queries = session.propose()
    with pytest.raises(AwaitingLabels):
        session.learn(part=True)
    session.label({name: truth(name) for name in queries.ids[:2]})
    report = session.learn(part=True)
    assert (report.labels_new, session.state.asked.tolist()) == (2, queries.positions[:2].tolist())
    assert set(queries.positions[2:]) <= set(session.state.unlabeled(len(session.rounds.names.sample_ids)))
    assert len(session.propose(7)) == 7


def test_answers_ahead_come_in_with_the_next_round_also_after_a_kill(session, tiny_folder, settings):
    answer(session)
    ahead = session.ahead(3)
    assert not set(ahead.ids) & set(session.propose().ids)
    session.label({name: truth(name) for name in ahead})
    session.learn()
    assert session.state.asked_in.tolist() == [1] * 4  # they don't count before the round that they come in with
    queries = session.propose()
    assert not set(ahead.ids) & set(queries.ids)
    late = session.ahead(1).ids[0]
    session.label({late: truth(late)})
    session.close()  # as a kill would: the query set is chosen, nothing of it labeled
    with psp_ray.Session.load(session.out) as again:
        assert again.propose().ids == queries.ids
        answer(again)
        again.learn()
        names = again.rounds.names.sample_ids
        volunteered = np.isnan(again.state.log_prob) & ~again.state.by_chance
        assert sorted(names[i] for i in again.state.asked[volunteered]) == sorted(ahead.ids)
        assert again.state.labels_used == 4 + 3 + 4
        assert (again.reports[-1].labels_new, again.reports[-1].labels_unasked) == (4, 3)
        told = {one.pick.name: one.pick.by for one in explain(again.out, 2).picks}
        assert {name for name, by in told.items() if by == "ahead"} == set(ahead.ids)
        assert again.state.labels_paid == 11
        again.propose()
        answer(again)
        again.learn()
        assert names.index(late) in again.state.asked.tolist()


def test_answers_that_the_result_does_not_hold_are_told_and_come_in_with_another_round(tmp_path, tiny_folder, settings):
    events, out = Hearing(), tmp_path / "run"
    given = {**settings, "rounds": 1}
    with psp_ray.Session(tiny_folder, out=out, events=events, **given) as session:
        answer(session)
        late = session.ahead(2).ids
        session.label({name: truth(name) for name in late})
        session.learn()
        told = f"2 answers are not in this result; psp-ray label {out} --rounds 2 takes them in, with one more round"
        assert events.heard[-1] == told
    log = [line[20:] for line in (out / "run.log").read_text().splitlines()]
    assert log[0].startswith(f"psp-ray: psp on {tiny_folder}, 1 round, seed 0 -> {out} (version")
    assert [line.startswith("round 1/1: 4 labels") for line in log].count(True) == 1
    assert log[-1] == told, "the log of a session is that of any run"
    events.heard.clear()
    assert run(continued(out, {}), events, continuing=True)["status"] == "finished"
    assert events.heard[-1] == told
    with psp_ray.Session.load(out, events=events, rounds=2) as again:
        answer(again)
        events.heard.clear()
        again.learn()
        ids = again.rounds.names.sample_ids
        assert set(late) <= {ids[i] for i in again.state.asked}
    assert not [text for text in events.heard if "not in this result" in text]


def test_predictions(by_hand, tiny_folder):
    with psp_ray.Session.load(by_hand) as session:
        whole = session.predict_proba()
        table = pq.read_table(by_hand / "pool_predictions.parquet").to_pandas()
        own = table.source.isin(["predicted", "pseudo"]).to_numpy()
        columns = np.argsort(session.classes_)
        chances = whole[:, columns][np.arange(len(whole)), np.searchsorted(session.classes_[columns], table["class"])]
        np.testing.assert_allclose(chances[own], table.probability[own], rtol=1e-3)
        assert (session.predict() == session.classes_[whole.argmax(axis=1)]).all()
        paths = table.path[:3].tolist()
        np.testing.assert_allclose(session.predict_proba(paths), whole[:3], atol=2e-3)
        with Image.open(paths[0]) as picture:
            np.testing.assert_allclose(session.predict_proba([picture]), whole[:1], atol=2e-3)
        features = session.rounds.data.pool.rows(np.arange(3)).astype(np.float32)
        np.testing.assert_allclose(session.predict_proba(5 * features), whole[:3], atol=1e-5)
        assert session.top(paths, k=2)[0][0][0] == session.predict(paths)[0]
        with pytest.raises(UserError, match="not an image"):
            session.predict([b"nothing"])


def test_confusion_and_doubt(by_hand):
    with psp_ray.Session.load(by_hand) as session:
        state, counts = session.state, session.confusion()
        seen = state.judged.logits
        if not len(seen):  # with a test set nothing is cross-fitted: the chance draws tell
            drawn = state.by_chance & state.has_class
            wanted = confusion_matrix(state.answers[drawn], state.logits[drawn].argmax(axis=1), labels=[0, 1, 2])
            assert counts.to_numpy().tolist() == wanted.tolist()
        assert list(counts.index) == list(session.classes_)
        for doubt in session.doubtful():
            assert doubt.own < doubt.probability
            assert doubt.label == truth(doubt.id) != doubt.suggestion


def test_a_wrong_label_is_the_most_doubtful(tmp_path, settings):
    """Embeddings of three far-apart clusters: every label speaks for its neighbors', so one lie stands out."""
    rng = np.random.default_rng(0)
    centers = np.eye(3, 8)
    kind = np.repeat([0, 1, 2], 40)
    points = (centers[kind] + rng.normal(0, 0.08, (120, 8))).astype(np.float32)
    names = [f"{'abc'[k]}{i}" for i, k in enumerate(kind)]
    given = {"rounds": 2, "labels_per_round": 15, "head": "linear", "cache": settings["cache"], "update_steps": 2}
    with psp_ray.Session(
        points, list("abc"), ids=names, class_embeddings=centers, out=tmp_path / "run", **given
    ) as session:
        queries = session.propose()
        session.label({name: name[0] for name in queries})
        liar = queries.ids[0]
        session.label({liar: "b" if liar[0] != "b" else "a"})
        session.learn()
        assert session.doubtful()[0].id == liar
        assert session.doubtful()[0].suggestion == liar[0]
        assert [doubt.id for doubt in session.doubtful()] == [liar]
        assert (session.predict(centers.astype(np.float32)) == list("abc")).all()


def test_a_run_goes_on(session, settings):
    with pytest.raises(ConfigError, match="at least 1"):
        session.extend(0)
    for _ in range(ROUNDS):
        answer(session)
        session.learn()
    assert session.over
    assert json.loads((session.out / "summary.json").read_text())["status"] == "finished"
    with pytest.raises(UserError, match="extend"):
        session.propose()
    session.extend(1)
    answer(session)
    session.close()
    with pytest.raises(ConfigError, match="--seed 5: can't change from 0 on the way"):
        psp_ray.Session.load(session.out, seed=5)
    with pytest.raises(ConfigError, match="3 rounds are done"):
        psp_ray.Session.load(session.out, rounds=2)
    with psp_ray.Session.load(session.out, labels_per_round=2) as again:
        assert again.learn(part=True).round == 4 or again.over


def test_a_round_that_failed_can_be_tried_again(tmp_path, tiny_folder, settings, by_truth):
    class Failing(Silent):
        def __init__(self):
            super().__init__()
            self.left = ["learn", "update", "checkpoint"]

        def stage(self, round, name):
            if self.left and name == self.left[0]:
                self.left.pop(0)
                raise OSError("no space left")

    with psp_ray.Session(tiny_folder, out=tmp_path / "run", events=Failing(), **settings) as session:
        for _ in range(3):
            answer(session)
            with pytest.raises(OSError, match="no space"):
                session.learn()
        for _ in range(ROUNDS):
            answer(session)
            session.learn()
    assert what_it_computed(tmp_path / "run")[1:] == what_it_computed(by_truth)[1:]


def test_a_session_takes_up_what_another_machine_did(tmp_path, tiny_folder, settings):
    here, there = tmp_path / "here" / "run", tmp_path / "there" / "run"
    with psp_ray.Session(tiny_folder, out=here, storage=str(tmp_path / "storage"), **settings) as session:
        answer(session)
        session.learn()
    shutil.copytree(here, there)
    with psp_ray.Session.load(there) as session:
        answer(session)
        session.learn()
        asked = session.state.asked.tolist()
    with psp_ray.Session.load(here) as session:
        assert session.state.asked.tolist() == asked, "or it would be told that another machine went on"


def test_one_at_a_time(session, tiny_folder, settings):
    with pytest.raises(OutputError, match="another process"):
        psp_ray.Session.load(session.out)
