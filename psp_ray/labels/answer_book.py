"""What people answered, one event each, in the ledger's own database: durable before it is acknowledged.

The ledger holds what a label *is*; the book holds how people came to it: who said what and when, what they were shown,
how long they looked, what they took back. An answer becomes a label when its query set is learned from. Nothing in the
book is ever changed: taking an answer back is an event, too.

The book is keyed by the images' contents, as the ledger is, within an experiment. It is a table beside the ledger's, so
that a ledger of any version can have one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.labels.database import chunks, make_tables, now_of
from psp_ray.labels.ledger import Ledger

ANSWER, SECOND, REVIEW, UNDO = "answer", "second", "review", "undo"
"""Kinds of events: an answer; a blind second opinion; the last word of a reviewer; an earlier event taken back."""

book = sa.MetaData()
answers = sa.Table(
    "answers",
    book,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("experiment", sa.Text, nullable=False, index=True),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("person", sa.Text, nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),
    # A class index or code; of an event that takes another one back: what that one said.
    sa.Column("label", sa.Integer, nullable=False),
    # Events that were one action (a confirmed group) share a batch and are taken back together.
    sa.Column("batch", sa.Text, nullable=False),
    sa.Column("undoes", sa.Integer),
    # The class that the classifier of the time predicted, -1 where there was none, how surely (0..1), and whether the
    # person saw it.
    sa.Column("suggested", sa.Integer, nullable=False),
    sa.Column("probability", sa.Double, nullable=False),
    sa.Column("shown", sa.Boolean, nullable=False),
    sa.Column("way", sa.String(16), nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("given_at", sa.Double, nullable=False),
)
settled = sa.Table(
    "answers_settled",
    book,
    sa.Column("experiment", sa.Text, primary_key=True),
    sa.Column("content_hash", sa.Text, primary_key=True),
    # Events about the image up to this one are in the ledger, where the label may have been corrected since.
    sa.Column("number", sa.Integer, nullable=False),
)
taken = sa.Table(
    "answers_taken",
    book,
    sa.Column("experiment", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    # When the round began, this was the last event.
    sa.Column("number", sa.Integer, nullable=False),
)


def tables_in(connection: Connection) -> list[sa.Table]:
    """The book's tables in a ledger; none where nobody has answered in a book."""
    names = set(sa.inspect(connection).get_table_names())
    return [table for table in book.sorted_tables if table.name in names]


@dataclass(frozen=True)
class Said:
    """An answer to be written: `label` is a class index or code; see the table for the rest."""

    content_hash: str
    label: int
    kind: str = ANSWER
    suggested: int = -1
    probability: float = 0.0
    shown: bool = False
    way: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Event(Said):
    """An answer as it was written; `given_at` in seconds since the epoch."""

    number: int
    person: str
    batch: str
    undoes: int | None
    given_at: float


class AnswerBook:
    """The answers of one experiment. Safe for threads and processes, as its ledger is."""

    def __init__(self, ledger: Ledger, experiment: str) -> None:
        self.ledger, self.experiment = ledger, experiment
        ledger.transact(lambda connection: make_tables(connection, book))

    def write(self, person: str, said: Sequence[Said], batch: str) -> list[Event]:
        """Make answers durable, as one action; returns them with their numbers."""
        return self.ledger.transact(lambda connection: self._insert(connection, person, said, batch))

    def undo(self, person: str, batch: str) -> list[Event]:
        """Take `person`'s last action back that still stands; returns its events, none where there is nothing left."""

        def work(connection: Connection) -> list[Event]:
            standing = [event for event in self._standing(connection) if event.person == person]
            if not standing:
                return []
            last = [event for event in standing if event.batch == standing[-1].batch]
            for event in last:
                said = Said(event.content_hash, event.label, UNDO, event.suggested, event.probability, event.shown)
                self._insert(connection, person, [said], batch, undoes=event.number)
            return last

        return self.ledger.transact(work)

    def events(self, after: int = 0) -> list[Event]:
        """All events with a number above `after`, in order; those that take others back, too."""
        return self.ledger.transact(lambda connection: self._read(connection, after))

    def standing(self) -> list[Event]:
        """Answers that nobody took back, in order."""
        return self.ledger.transact(self._standing)

    def effective(self, until: int | None = None) -> dict[str, Event]:
        """What the answer to each image is now, or was at event `until`, by content hash; see `decide`."""
        return decide(standing(event for event in self.events() if until is None or event.number <= until))

    def taken(self, round: int) -> int:
        """The last event there was when `round` began: now, where nobody has asked before."""

        def work(connection: Connection) -> int:
            mine = (taken.c.experiment == self.experiment, taken.c.round == round)
            found = connection.execute(sa.select(taken.c.number).where(*mine)).scalar_one_or_none()
            if found is None:
                newest = sa.select(sa.func.max(answers.c.number)).where(answers.c.experiment == self.experiment)
                found = connection.execute(newest).scalar_one() or 0
                connection.execute(taken.insert().values(experiment=self.experiment, round=round, number=found))
            return int(found)

        return self.ledger.transact(work)

    def settled(self) -> dict[str, int]:
        """The last event about each image that is in the ledger, {content hash: number}."""
        statement = sa.select(settled.c.content_hash, settled.c.number).where(settled.c.experiment == self.experiment)
        rows = self.ledger.transact(lambda connection: connection.execute(statement).all())
        return {row.content_hash: row.number for row in rows}

    def settle(self, numbers: Mapping[str, int]) -> None:
        """Note that events about images, {content hash: number of the last one}, are in the ledger."""
        rows = [{"experiment": self.experiment, "content_hash": h, "number": n} for h, n in sorted(numbers.items())]
        mine = settled.c.experiment == self.experiment

        def work(connection: Connection) -> None:
            for part in chunks(sorted(numbers)):
                connection.execute(settled.delete().where(mine, settled.c.content_hash.in_(part)))
            connection.execute(settled.insert(), rows)

        if rows:
            self.ledger.transact(work)

    def _insert(
        self, connection: Connection, person: str, said: Sequence[Said], batch: str, undoes: int | None = None
    ) -> list[Event]:
        now = now_of(connection)
        written = []
        for item in said:
            row: dict[str, Any] = asdict(item) | {"person": person, "batch": batch, "undoes": undoes, "given_at": now}
            result = connection.execute(answers.insert().values(experiment=self.experiment, **row))
            assert result.inserted_primary_key is not None
            written.append(Event(number=int(result.inserted_primary_key[0]), **row))
        return written

    def _read(self, connection: Connection, after: int = 0) -> list[Event]:
        columns = [column for column in answers.c if column.name != "experiment"]
        statement = (
            sa.select(*columns)
            .where(answers.c.experiment == self.experiment, answers.c.number > after)
            .order_by(answers.c.number)
        )
        return [Event(**row._mapping) for row in connection.execute(statement)]

    def _standing(self, connection: Connection) -> list[Event]:
        return events_of(connection, self.experiment)


def events_of(connection: Connection, experiment: str) -> list[Event]:
    """The answers of an experiment that nobody took back, in order, inside of a transaction."""
    columns = [column for column in answers.c if column.name != "experiment"]
    mine = sa.select(*columns).where(answers.c.experiment == experiment).order_by(answers.c.number)
    return standing(Event(**row._mapping) for row in connection.execute(mine))


def standing(events: Iterable[Event]) -> list[Event]:
    """The events that no other one takes back, in order."""
    found = list(events)
    gone = {event.undoes for event in found if event.undoes is not None}
    return [event for event in found if event.undoes is None and event.number not in gone]


def opinions(events: Iterable[Event]) -> dict[str, dict[str, Event]]:
    """What each person says now of each image: {content hash: {person: event}}, both in the order first said.

    `events` stand; a reviewer's last word is no opinion.
    """
    found: dict[str, dict[str, Event]] = {}
    for event in events:
        if event.kind != REVIEW:
            found.setdefault(event.content_hash, {})[event.person] = event
    return found


def decide(events: Iterable[Event]) -> dict[str, Event]:
    """One answer an image, {content hash: event}, of events that stand.

    A reviewer's last word counts; else what whoever answered first says now. A second opinion that differs changes
    nothing by itself: a reviewer does.
    """
    events = list(events)
    found = {digest: next(iter(said.values())) for digest, said in opinions(events).items()}
    found.update({event.content_hash: event for event in events if event.kind == REVIEW})
    return found


def disagreements(events: Iterable[Event]) -> Mapping[str, dict[str, Event]]:
    """Images about which opinions differ and no reviewer has spoken since the last of them."""
    events = list(events)
    reviewed = {event.content_hash: event.number for event in events if event.kind == REVIEW}
    return {
        digest: said
        for digest, said in opinions(events).items()
        if len({event.label for event in said.values()}) > 1
        and max(event.number for event in said.values()) > reviewed.get(digest, 0)
    }
