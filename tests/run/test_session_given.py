"""What programs hand to a session by mistake: one line each, and nothing of it is believed, written or lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import psp_ray
from psp_ray.core.errors import ConfigError, DatasetError, UserError
from psp_ray.run.session.given import images_of

N, DIM = 24, 6
CLASSES = ["cat", "dog, sea", "fox"]


@pytest.fixture
def given(cache_folder, tmp_path):
    """Embeddings of three clusters: no model is loaded for them."""
    rng = np.random.default_rng(0)
    centers = np.eye(3, DIM)
    rows = (centers[np.arange(N) % 3] + rng.normal(0, 0.1, (N, DIM))).astype(np.float32)
    settings = {"rounds": 2, "labels_per_round": 3, "head": "linear", "update_steps": 1, "threads": 1}
    return {
        "images": rows,
        "classes": CLASSES,
        "class_embeddings": centers,
        "out": tmp_path / "run",
        "cache": str(cache_folder),
        "pictures": False,
        **settings,
    }


@pytest.fixture
def session(given):
    with psp_ray.Session(**given) as opened:
        yield opened


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"classes": 7}, "7 is no name"),
        ({"classes": [1, 2]}, "1 is no name"),
        ({"classes": ["cat", "", "fox"]}, "'' is no name"),
        ({"classes": ["cat, sea", "dog: big"]}, "'dog: big'"),
        ({"classes": ["cat, sea", "# dog"]}, "'# dog'"),
        ({"classes": ["cat, sea", "dog\nfox"]}, "rename"),
        ({"images": 5}, "images 5: give a folder"),
        ({"images": b"x"}, "give a folder"),
        ({"images": ["a.jpg", 5]}, r"images\[1\]: int is no path"),
        ({"images": [["a.jpg"]]}, r"images\[0\]: list is no path"),
        ({"images": np.ones((5, DIM), int)}, "embeddings are"),
        ({"class_embeddings": 7}, "class_embeddings"),
        ({"class_embeddings": ["a", "b", "c"]}, "class_embeddings"),
        ({"class_embeddings": np.eye(2, DIM)}, "2 of them for 3 classes"),
        ({"ids": ["a"]}, "1 of them for 24 images"),
        ({"out": 5}, "out 5"),
        ({"out": ""}, "out ''"),
        ({"images": None, "out": None}, "say which images"),
    ],
)
def test_what_is_no_run(given, wrong, says):
    with pytest.raises(ConfigError, match=says) as raised:
        psp_ray.Session(**given | wrong)
    assert "\n" not in str(raised.value)


def test_wrong_kinds_are_refused_and_nothing_is_written(session):
    one = session.propose().ids[0]
    wrong = [None, True, 1.5, float("nan"), float("inf"), [1], b"cat", np.array([1]), 3, -3, 10**30, "", "cta"]
    calls = [lambda answer=answer: session.label({one: answer}) for answer in wrong]
    calls += [lambda answers=answers: session.label(answers) for answers in ([], None, "cat", [(one, "cat")])]
    calls += [lambda: session.label({one: "cat"}, person=None), lambda: session.label({one: "cat"}, way=5)]
    calls += [lambda: session.label({one: "cat", "nowhere": "cat"}), lambda: session.label({5: "cat"})]
    for n in (-1, 0, 1.5, "3", True):
        calls += [lambda n=n: session.propose(n), lambda n=n: session.top(k=n), lambda n=n: session.extend(n)]
    for n in (-1, 1.5, "3", True, None):
        calls += [lambda n=n: session.ahead(n), lambda n=n: session.doubtful(n), lambda n=n: session.doubtful(3, n)]
    row = np.ones((1, DIM))
    bad = [np.full((1, DIM), np.nan), 0 * row, row * np.inf, row[0], row[:, :3], row.astype("c8")]
    bad += ["a.jpg", b"x", 5, [5], [None], [row]]
    calls += [lambda images=images: session.predict(images) for images in bad]
    for number, call in enumerate(calls):
        with pytest.raises(UserError) as raised:
            call()
        assert "\n" not in str(raised.value), number
    assert not session.propose().answers
    assert session.round == 0


def test_numbers_of_every_kind_are_labels(session):
    ids = session.propose().ids
    session.label({ids[0]: np.int64(2), ids[1]: 1.0, ids[2]: np.str_("DOG, sea")})
    assert list(session.propose().answers.values()) == [2, 1, 1]
    assert len(session.propose(np.int32(2))) == 2


def test_a_closed_session_writes_nothing_but_still_tells(given):
    session = psp_ray.Session(**given)
    one = session.propose().ids[0]
    session.close()
    session.close()
    for call in (
        session.propose,
        session.learn,
        session.save,
        lambda: session.label({one: "cat"}),
        lambda: session.ahead(3),
        lambda: session.extend(1),
    ):
        with pytest.raises(UserError, match=r"closed.*Session\.load"):
            call()
    assert len(session.predict()) == N
    with psp_ray.Session.load(given["out"]) as again:
        assert not again.propose().answers
        assert again.rounds.config.labels.rounds == 2


def test_a_run_keeps_the_images_it_began_with(given, tmp_path):
    psp_ray.Session(**given).close()
    before = {file.name: file.read_bytes() for file in tmp_path.glob("run-*")}
    assert len(before) == 3
    for wrong in ({"images": given["images"][:20]}, {"class_embeddings": given["class_embeddings"][::-1]}):
        with pytest.raises(ConfigError, match="its run began with other"):
            psp_ray.Session(**given | wrong)
        assert {file.name: file.read_bytes() for file in tmp_path.glob("run-*")} == before
    psp_ray.Session(**given).close()  # the same again goes on


def test_lists_without_a_folder_don_t_overwrite_each_other(tmp_path, given, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for size in (24, 20):
        psp_ray.Session(**given | {"out": None, "images": given["images"][:size]}).close()
    assert len(list((tmp_path / "runs").glob("*embeddings.npz"))) == 2


def test_no_more_rounds_than_images(session):
    with pytest.raises(ConfigError, match="24 images left"):
        session.extend(10**9)
    session.label(dict.fromkeys(session.rounds.names.sample_ids, "cat"))
    session.extend(20)
    session.propose(N)
    session.learn()
    assert session.over
    with pytest.raises(UserError, match=r"every image of the pool was asked about\); start another"):
        session.propose()
    with pytest.raises(ConfigError, match="0 images left"):
        session.extend(1)


def test_a_ledger_that_is_gone_takes_no_answer(session):
    queries = session.propose()
    answers = dict.fromkeys(queries.ids, "cat")
    ledger = session.out / "ledger.sqlite"
    aside = ledger.rename(ledger.with_suffix(".aside"))
    with pytest.raises(UserError, match="removed or replaced"):
        session.label(answers)
    aside.rename(ledger)
    assert session.label(answers) == 0


@pytest.mark.parametrize(
    "wrong", ["a.jpg", b"x", Path("a.jpg"), Image.new("L", (2, 2)), 5, None, [5], [None], [np.eye(3)]]
)
def test_an_image_is_one_of_a_list(wrong):
    with pytest.raises(DatasetError, match="give a"):
        images_of(wrong)
