"""Posts of runs that wait, on every kind of database: what is asked, what is answered, what is kept."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from psp_ray.labels import Ledger, label_space_of
from psp_ray.labels.accounting import LedgerAccounting
from psp_ray.labels.answer_book import AnswerBook, Said
from psp_ray.labels.backup import backup
from psp_ray.labels.questions import (
    FULL,
    LEARNING,
    OVER,
    SILENT_SECONDS,
    THUMB,
    WAITING,
    QuerySetInfo,
    Question,
    Questions,
    query_sets,
)
from psp_ray.web.crew import LEAD, Crew
from psp_ray.web.ledger_people import LedgerPeople
from tests.labels.conftest import CLASSES


@pytest.fixture
def ledger(ledger_url):
    with Ledger(ledger_url) as opened:
        yield opened


def about(experiment="a", number=1, **more):
    values = {"title": "photos", "classes": CLASSES, "label_space": label_space_of(CLASSES), "annotator": "people"}
    return QuerySetInfo(experiment=experiment, round=number, rounds=3, labels=0, **{**values, **more})


def asked(*names):
    return [Question(f"h{name}", f"{name}.png", look=place) for place, name in enumerate(names)]


def waiting(ledger):
    with LedgerAccounting(ledger) as accounting:
        return accounting.status()["waiting"]


def test_positions_last_and_a_round_may_ask_for_others(ledger):
    posts = Questions(ledger)
    posts.post(about(), asked("x", "y", "z"))
    posts.post(about(), asked("z", "new"))  # the pool changed before anything was answered
    posts.post(about("b"), asked("y"))
    found = posts.asked("a")
    assert [(item.content_hash, item.position, item.round) for item in found] == [
        ("hx", 0, -1),
        ("hy", 1, -1),
        ("hz", 2, 1),
        ("hnew", 3, 1),
    ]
    posts.post(about(number=2), asked("y"))
    assert [(item.position, item.round) for item in posts.asked("a")] == [(0, -1), (1, 2), (2, 1), (3, 1)]
    posts.close("b", LEARNING)
    assert [(item.experiment, item.state, item.classes) for item in posts.sets()] == [
        ("a", WAITING, CLASSES),
        ("b", LEARNING, CLASSES),
    ]
    assert len({item.key for item in posts.sets()}) == 2


def test_who_waits_and_for_how_many(ledger):
    with LedgerAccounting(ledger) as accounting:
        assert accounting.status()["waiting"] == []  # a ledger that nobody ever posted in
    posts = Questions(ledger)
    posts.post(about(), asked("x", "y", "z"))
    book = AnswerBook(ledger, "a")
    book.write("Ann", [Said("hx", 0), Said("hother", 1)], "one")
    (item,) = waiting(ledger)
    assert (item["asked"], item["answered"], item["silent"]) == (3, 1, False)
    book.undo("Ann", "two")
    assert waiting(ledger)[0]["answered"] == 0
    past = query_sets.update().values(heard_at=query_sets.c.heard_at - SILENT_SECONDS - 1)
    ledger.transact(lambda connection: connection.execute(past))
    assert waiting(ledger)[0]["silent"]
    posts.heard("a")
    assert not waiting(ledger)[0]["silent"]
    posts.close("a", OVER)
    assert waiting(ledger) == []


def test_large_pictures_go_when_nobody_waits_for_them(ledger, tmp_path):
    posts = Questions(ledger)
    for name in ("x", "y"):
        for size in (THUMB, FULL):
            posts.keep_picture(f"h{name}", size, f"{name} {size}".encode())
            posts.keep_picture(f"h{name}", size, f"{name} {size}".encode())
    assert posts.without_pictures(["hx", "hq"], FULL) == ["hq"]
    posts.post(about(), asked("x", "y"))
    posts.post(about("b"), asked("y"))
    posts.close("a", LEARNING)
    assert [posts.picture(name, FULL) for name in ("hx", "hy", "hq")] == [b"x thumb", b"y full", None]
    backup(ledger, tmp_path / "copy.sqlite")
    copy = sa.create_engine(f"sqlite:///{tmp_path / 'copy.sqlite'}")
    assert not {"query_sets", "questions", "question_pictures", "page_people"} & set(sa.inspect(copy).get_table_names())
    copy.dispose()


def test_a_run_that_does_not_come_back_is_forgotten_but_not_its_answers(ledger):
    posts, book = Questions(ledger), AnswerBook(ledger, "a")
    for experiment, names in (("a", "xy"), ("b", "y")):
        posts.post(about(experiment), asked(*names))
    for name in ("hx", "hy"):
        posts.keep_picture(name, THUMB, b"small")
    book.write("Ann", [Said("hx", 0)], "one")
    assert [posts.forget("a"), posts.forget("a")] == [True, False]
    assert ([item.experiment for item in posts.sets()], posts.asked("a")) == (["b"], [])
    assert [posts.picture(name, THUMB) for name in ("hx", "hy")] == [None, b"small"]
    assert [event.content_hash for event in book.standing()] == ["hx"]


def test_people_of_a_database_keep_their_links(ledger):
    crew = Crew(LedgerPeople(ledger))
    links = {name: crew.invite(name, role).token for name, role in (("you", LEAD), ("Ann", "label"))}
    again = Crew(LedgerPeople(ledger))
    again.invite("Bob", "label")
    assert crew.invite("Ann", "review").token == links["Ann"]
    assert [(person.name, person.role) for person in Crew(LedgerPeople(ledger)).people] == [
        ("you", LEAD),
        ("Ann", "review"),
        ("Bob", "label"),
    ]
    assert again.find(links["you"]).role == LEAD
