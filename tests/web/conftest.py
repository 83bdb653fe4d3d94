"""A desk over a book, with a pool of names and a board that a test lays out."""

from __future__ import annotations

import pytest

from psp_ray.labels import Ledger
from psp_ray.labels.answer_book import AnswerBook
from psp_ray.web.board import Board, PoolView, Task
from psp_ray.web.crew import Person
from psp_ray.web.desk import Desk

CLASSES = ["cat", "dog", "fox"]
SIZE = 40


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


@pytest.fixture
def pool():
    return PoolView.of([f"{i}.png" for i in range(SIZE)], [f"h{i}" for i in range(SIZE)], CLASSES)


@pytest.fixture
def desk_of(ledger, pool, clock):
    """A desk with the rules given; opened again it is another process's."""
    return lambda rules=None: Desk(AnswerBook(ledger, "run"), pool, rules, clock)


@pytest.fixture
def desk(desk_of):
    return desk_of()


def tasks(*positions, **more):
    return [Task(i, f"h{i}", i % 3, 0.5 + i / 100, **more) for i in positions]


def board(*positions, ahead=(), **more):
    return Board(1, 3, tasks=tasks(*positions), ahead=tasks(*ahead, ahead=True), **more)


def person(name, role="label"):
    return Person(name, role, f"token of {name}")
