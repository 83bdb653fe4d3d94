"""A class was forgotten: classes are added and renamed while a run goes on, and nothing that was labeled is lost.

Embeddings of four clouds, of which the run knows three at first: what lies in the fourth is called none of the classes
until that class is there.
"""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import psp_ray
from psp_ray.core.answers import IGNORE
from psp_ray.core.errors import ConfigError, DatasetError, OutputError, UserError
from psp_ray.core.files import read_tensors
from psp_ray.labels import Ledger
from psp_ray.run.classes import RunClasses, difference
from psp_ray.run.command import run
from psp_ray.run.continuing import continued
from psp_ray.run.events import Silent
from psp_ray.run.resolve import resolve

NAMES = ["cat", "dog", "owl", "eel"]
N, D = 160, 8
TRUTH = np.arange(N) % 4


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(3)
    centers = rng.standard_normal((4, D))
    images = (centers[TRUTH] + 0.7 * rng.standard_normal((N, D))).astype(np.float32)
    return images, (centers + 0.4 * rng.standard_normal((4, D))).astype(np.float32)


@pytest.fixture
def begin(world, tmp_path):
    """A session over three of the four classes."""
    images, text = world

    def opened(name="run", **more):
        settings = {
            "rounds": 4,
            "labels_per_round": 8,
            "strategy": "badge",
            "head": "gda",
            "audit_fraction": 0.25,
            "pictures": False,
            "cache": str(tmp_path / "cache"),
            "logit_scale": 20.0,
            "class_embeddings": text[:3],
            **more,
        }
        return psp_ray.Session(images, NAMES[:3], out=tmp_path / name, **settings)

    return opened


def truth(session, name):
    label = int(TRUTH[int(name)])
    return "ignore" if label >= len(session.classes_) else label


def play(session, rounds=1):
    for _ in range(rounds):
        session.label({name: truth(session, name) for name in session.propose().open})
        session.learn()


def bits(out):
    """All that a run computed and was told, without times and names of classes."""
    summary = json.loads((out / "summary.json").read_text())
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "wall_seconds")} for row in summary["rounds"]]
    newest = sorted((out / "checkpoints").glob("round_*"))[-1]
    tensors = {
        f"{file.stem}.{name}": value.tobytes()
        for file in newest.glob("*.safetensors")
        for name, value in read_tensors(file).items()
    }
    labels = pq.read_table(newest / "labels.parquet").to_pydict()
    return rows, tensors, str(labels), pq.read_table(out / "pool_predictions.parquet")


def same(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert [name for name in one[1] if one[1][name] != other[1][name]] == []
    assert one[2] == other[2]
    assert one[3].equals(other[3])


def test_whoever_changes_the_classes_and_whatever_is_killed_in_between(begin, world, tmp_path):
    """In one process; reopened after every step; by `psp-ray continue`: the same bits, and every answer stands."""
    eel = world[1][3]
    with begin("live") as session:
        play(session, 2)
        before = [tuple(session.state.asked), tuple(session.state.answers), session.state.labels_paid]
        said = session.rounds.people.answers.standing()
        session.add_class("eel", embedding=eel)
        session.rename_class("dog", "hound")
        assert session.classes_.tolist() == ["cat", "hound", "owl", "eel"]
        assert [tuple(session.state.asked), tuple(session.state.answers), session.state.labels_paid] == before
        assert session.rounds.people.answers.standing() == said
        assert session.predict_proba().shape == (N, 4)
        play(session, 2)
        paid = session.state.labels_paid
    steps = [
        lambda session: play(session, 2),
        lambda session: session.add_class("eel", embedding=eel),
        lambda session: session.rename_class("dog", "hound"),
        lambda session: session.label({session.propose().ids[0]: truth(session, session.propose().ids[0])}),
        play,
        play,
    ]
    begin("killed").close()
    for step in steps:
        with psp_ray.Session.load(tmp_path / "killed") as session:
            step(session)
    same(bits(tmp_path / "live"), bits(tmp_path / "killed"))
    with Ledger(tmp_path / "live" / "ledger.sqlite") as ledger:
        (row,) = ledger.status()["experiments"]
        assert (row["labels_paid"], row["labels_used"]) == (paid, paid)
        assert [use.label for use in ledger.history(row["experiment"])][: len(before[1])] == list(before[1])
    answers = {
        row["sample_id"]: row["label"] for row in pq.read_table(tmp_path / "live" / "labels.parquet").to_pylist()
    }
    assert {answers[f"{i:03d}"] for i in range(N) if TRUTH[i] == 1 and f"{i:03d}" in answers} == {"hound"}


def test_the_command_line_changes_them_too(begin, world, tmp_path):
    """By `--classes` of `continue`, with the new row in the file of embeddings; the same bits again."""
    with begin("live") as session:
        play(session, 2)
        session.add_class("eel", embedding=world[1][3])
        session.rename_class("dog", "hound")
        play(session, 2)
    with begin("typed") as session:
        play(session, 2)
    out, file = tmp_path / "typed", tmp_path / "typed-classes.npz"
    names = "cat,hound,owl,eel"
    with pytest.raises(DatasetError, match="no embedding of class 'eel'"):
        continued_run(out, classes=names)
    np.savez(file, **{"class": NAMES, "embedding": world[1]})
    assert continued_run(out, classes=names)["status"] == "awaiting_labels"
    with psp_ray.Session.load(out) as session:
        play(session, 2)
    same(bits(tmp_path / "live"), bits(out))
    assert continued_run(out)["status"] == "finished"


def continued_run(out, **changes):
    return run(continued(out, changes), Silent(), continuing=True)


def test_the_classifier_is_that_of_the_same_labels_known_beforehand(begin, world, tmp_path):
    """What goes on after a class was added is what a run with that class would begin with."""
    with begin("one") as session:
        play(session, 2)
        session.add_class("eel", embedding=world[1][3])
        found = session.state.text
    images, text = world
    fresh = psp_ray.Session(
        images,
        NAMES,
        out=tmp_path / "fresh",
        class_embeddings=text,
        logit_scale=20.0,
        head="gda",
        strategy="badge",
        labels_per_round=8,
        pictures=False,
        cache=str(tmp_path / "cache"),
        initial_labels=str(tmp_path / "one" / "labels.parquet"),
    )
    with fresh as session:
        assert sorted(session.state.labeled) == sorted(session.state.asked)
        np.testing.assert_allclose(session.state.text.features, found.features, atol=2e-3)
        assert (session.predict() == np.array(NAMES)[TRUTH]).mean() > 0.5


def test_a_name_alone_changes_no_number(begin, tmp_path):
    with begin("named") as session:
        play(session, 2)
        session.rename_class("owl", "tawny owl")
        play(session, 2)
    with begin("plain") as session:
        play(session, 4)
    one, other = bits(tmp_path / "named"), bits(tmp_path / "plain")
    assert one[:3] == other[:3]
    renamed, plain = (table["class"].to_pylist() for *_, table in (one, other))
    assert "tawny owl" in renamed
    assert ["owl" if name == "tawny owl" else name for name in renamed] == plain


def test_what_showed_none_of_the_classes_may_be_the_new_one(begin, world):
    with begin() as session:
        play(session, 2)
        none = [session.rounds.names.sample_ids[i] for i in session.state.asked[session.state.answers == IGNORE]]
        assert none
        session.add_class("eel", embedding=world[1][3])
        session.label(dict.fromkeys(none, "eel"))
        play(session)
        where = [session.rounds.names.sample_ids.index(name) for name in none]
        rows = np.flatnonzero(np.isin(session.state.asked, where))
        assert set(session.state.answers[rows]) == {3}
        # The classifiers of the time didn't know it, and still say something that can be judged.
        assert np.isfinite(session.state.logits[rows]).all()
        assert not (session.state.logits[rows].argmax(axis=1) == 3).any()
        assert session.confusion().loc["eel"].sum() >= 0
        assert {item.label for item in session.doubtful(100)} <= set(session.classes_)


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("psp", "el2n-policy", "bandit+sub")]


@pytest.mark.parametrize("strategy", ["badge+pcb", *OTHERS])
def test_every_kind_of_memory_follows(begin, world, strategy):
    """Policies, balancers and folds that were made for three classes."""
    with begin(strategy=strategy, head="auto", update_steps=2, self_training="ust") as session:
        play(session)
        session.add_class("eel", embedding=world[1][3])
        play(session, 2)
        assert session.reports[-1].labels_total > 12
        assert session.state.judged.logits.shape[1] == session.state.logits.shape[1] == 4


@pytest.mark.slow
def test_on_ray_as_in_one_process(begin, world, tmp_path):
    """The actors of before end, others with all the classes take their place."""
    from psp_ray.actors.opening import open_runtime

    for name, more in (("inline", {}), ("ray", {"runner": "ray", "open_runtime": open_runtime})):
        with begin(name, rounds=2, **more) as session:
            play(session)
            session.add_class("eel", embedding=world[1][3])
            play(session)
    same(bits(tmp_path / "inline"), bits(tmp_path / "ray"))


def test_what_can_not_be_is_refused_in_one_line(begin, world, tmp_path):
    with begin() as session:
        play(session)
        for change, says in (
            (lambda: session.add_class("CAT"), "is there already"),
            (lambda: session.add_class(" \n"), "give a name"),
            (lambda: session.add_class("eel"), "no embedding of class 'eel'"),
            (lambda: session.add_class("eel", embedding=[1.0, 2.0]), "give 8 numbers"),
            (lambda: session.add_class("eel", embedding=[0.0] * D), "all zeros"),
            (lambda: session.add_class("eel", embedding="eel"), "one row of numbers"),
            (lambda: session.rename_class("dgo", "hound"), "did you mean 'dog'"),
            (lambda: session.rename_class("dog", "Owl"), "is there already"),
        ):
            with pytest.raises(UserError, match=says) as refused:
                change()
            assert "\n" not in str(refused.value)
        assert session.classes_.tolist() == NAMES[:3]
        play(session)
    for classes, says in (
        ("cat,owl", "class 'dog' is gone, and labels say it"),
        ("owl,fox,cat", "it can't be told which name took which"),
    ):
        with pytest.raises(OutputError, match=says):
            continued_run(tmp_path / "run", classes=classes)
    with pytest.raises(OutputError, match="no such folder"):
        continued(tmp_path / "nothing", {"classes": "a,b"})


@pytest.mark.parametrize(
    ("old", "new", "renamed", "added"),
    [
        ("a b", "a b c", {}, ["c"]),
        ("a c", "a b c", {}, ["b"]),
        ("a b", "b a", {}, []),
        ("a b", "a x", {"b": "x"}, []),
        ("a b", "x y z", {"a": "x", "b": "y"}, ["z"]),
    ],
)
def test_how_a_list_became_another(old, new, renamed, added):
    assert difference(old.split(), new.split()) == (renamed, added)


def test_a_list_may_change_after_the_page_did():
    """Whatever is renamed here and there, a class keeps its index."""
    classes = RunClasses.begun(["a", "b"]).added("c").renamed("a", "first")
    assert classes.names == ["first", "b", "c"]
    assert classes.with_given(["b", "a"]).names == ["first", "b", "c"], "only the order of the file changed"
    assert classes.with_given(["a", "b", "c", "d"]).names == ["first", "b", "c", "d"]
    assert classes.with_given(["a", "second"]).names == ["first", "second", "c"]
    again = classes.with_given(["A", "b"])
    assert again.names == ["first", "b", "c"], "the page's name stands"
    with pytest.raises(ConfigError, match="is gone"):
        classes.with_given(["a"])


def test_tables_of_before_are_read_with_the_names_of_before(tiny_settings, tiny_folder, tmp_path):
    """`--oracle file`: a class is renamed and one added in the file of classes; old tables keep what was typed."""
    names, out, photos = tmp_path / "classes.txt", tmp_path / "run", tmp_path / "photos"
    photos.mkdir()
    for file in sorted(tiny_folder.glob("*/*.png")):
        (photos / f"{file.parent.name}_{file.name}").symlink_to(file)
    names.write_text("blue\ngreen\nred\n")
    options = {**tiny_settings, "dataset": str(photos), "classes": str(names), "oracle": "file", "out": str(out)}
    options |= {"rounds": 3, "labels_per_round": 4, "update_steps": 2, "learning_steps": 4, "pictures": False}
    run(resolve(options), Silent())
    fill(out / "round_01" / "query.csv")
    assert continued_run(out)["awaiting"]["round"] == 2
    fill(out / "round_02" / "query.csv")
    names.write_text("azure\nblack\ngreen\nred\n")
    with pytest.raises(OutputError, match="it can't be told which name took which"):
        continued_run(out)
    names.write_text("blue\nblack\ngreen\nred\n")
    with psp_ray.Session.load(out) as session:  # the new name stands second in the file, and last in the run
        assert session.classes_.tolist() == ["blue", "green", "red", "black"]
        session.rename_class("blue", "azure")
    waits = continued_run(out)["awaiting"]  # for another query set of round 2: that one knew no black
    assert (waits["round"], waits["asked"]) == (2, 4)
    fill(out / "round_02" / "query.csv")
    summary = continued_run(out)
    assert summary["awaiting"]["round"] == 3
    assert summary["rounds"][1]["labels_total"] == 8 + waits["missing"], "the answers to the first one count, too"
    rows = pq.read_table(out / "labels.parquet").to_pylist()
    assert {row["label"] for row in rows if row["sample_id"].startswith("blue")} == {"azure"}
    assert {row["label"] for row in rows if row["sample_id"].startswith("red")} == {"red"}
    fill(out / "round_03" / "query.csv")
    assert continued_run(out)["status"] == "finished"


def fill(file):
    rows = list(csv.DictReader(file.open(newline="")))
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "label": row["sample_id"].split("_")[0]} for row in rows)
