"""What runs ask of people, in the ledger's own database: query sets that wait for answers, with their pictures.

A run that waits posts its query set here; whoever hosts a page for the ledger (`psp_ray.web.shared`) shows it, wherever
either of them is. Answers go into the answer book. A post says nothing that the run could not say again, so all of it
may be lost: the run posts anew when it is taken up. It is no part of backups.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.labels.answer_book import answers, decide, events_of, tables_in
from psp_ray.labels.database import chunks, insert_of, make_tables, now_of
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.schema import labels

WAITING, LEARNING, OVER = "waiting", "learning", "over"
"""What a run does that has posted: it waits for answers; it has them; it needs no more."""
SILENT_SECONDS = 60.0
"""A waiting run that has said nothing for so long isn't there any more, or can't reach the database."""
THUMB, FULL = "thumb", "full"
"""Sizes of pictures: kept for good, for review; and until the query set is answered."""

posted = sa.MetaData()
query_sets = sa.Table(
    "query_sets",
    posted,
    sa.Column("experiment", sa.Text, primary_key=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("class_names", sa.Text, nullable=False),
    sa.Column("label_space", sa.String(32), nullable=False),
    sa.Column("annotator", sa.Text, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("rounds", sa.Integer, nullable=False),
    sa.Column("labels", sa.Integer, nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("posted_at", sa.Double, nullable=False),
    sa.Column("heard_at", sa.Double, nullable=False),
)
questions = sa.Table(
    "questions",
    posted,
    sa.Column("experiment", sa.Text, primary_key=True),
    sa.Column("content_hash", sa.Text, primary_key=True),
    # Counts the images that the experiment ever posted, from 0: what the page calls an image by.
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("sample_id", sa.Text, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("predicted", sa.Integer, nullable=False),
    sa.Column("probability", sa.Double, nullable=False),
    sa.Column("look", sa.Integer, nullable=False),
)
pictures = sa.Table(
    "question_pictures",
    posted,
    sa.Column("content_hash", sa.Text, primary_key=True),
    sa.Column("size", sa.String(8), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)


@dataclass(frozen=True)
class Question:
    """An image to be labeled: what the classifier takes it for (-1: isn't told), how surely (0..1), and which images
    look like it (those of the same number)."""

    content_hash: str
    sample_id: str
    predicted: int = -1
    probability: float = 0.0
    look: int = 0


@dataclass(frozen=True)
class Posted(Question):
    """A question as it was posted, under the page's number for the image."""

    position: int = 0
    round: int = 0


@dataclass(frozen=True, kw_only=True)
class QuerySetInfo:
    """A run that asks people, and how far it is: round `round` of `rounds`, learned from `labels`."""

    experiment: str
    title: str
    classes: Sequence[str]
    label_space: str
    annotator: str
    round: int
    rounds: int
    labels: int


@dataclass(frozen=True, kw_only=True)
class PostedSet(QuerySetInfo):
    """A query set as it was posted; times in seconds since the epoch. `silent`: its run isn't heard of any more."""

    state: str
    posted_at: float
    heard_at: float
    silent: bool

    @property
    def key(self) -> str:
        """The experiment in an address: 16 hexadecimal digits."""
        return hashlib.blake2b(self.experiment.encode(), digest_size=8).hexdigest()


class Questions:
    """The posts of all experiments of a ledger. Safe for threads and processes, as the ledger is."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        ledger.transact(lambda connection: make_tables(connection, posted))

    # ---- a run's side ----------------------------------------------------------------------------------------------

    def post(self, about: QuerySetInfo, asked: Sequence[Question]) -> None:
        """Make `asked` the query set that `about.experiment` waits for, in place of its last one."""

        def work(connection: Connection) -> None:
            now, mine = now_of(connection), questions.c.experiment == about.experiment
            rows = connection.execute(sa.select(questions.c.content_hash, questions.c.position).where(mine)).all()
            known = {row.content_hash: row.position for row in rows}
            for ordinal, question in enumerate(asked):
                position = known.setdefault(question.content_hash, len(known))
                values = {**vars(question), "experiment": about.experiment, "round": about.round}
                _put(connection, questions, {**values, "position": position, "ordinal": ordinal})
            left = [question.content_hash for question in asked]
            earlier = questions.update().where(mine, questions.c.round == about.round)
            stale = [digest for digest in known if digest not in set(left)]
            for part in chunks(stale):  # the round asked for others before
                connection.execute(earlier.where(questions.c.content_hash.in_(part)).values(round=-1))
            about_set = {**vars(about), "class_names": json.dumps(list(about.classes))}
            del about_set["classes"]
            _put(connection, query_sets, {**about_set, "state": WAITING, "posted_at": now, "heard_at": now})

        self.ledger.transact(work)

    def heard(self, experiment: str) -> None:
        """The run is still there, and waits."""
        mine = query_sets.update().where(query_sets.c.experiment == experiment)
        self.ledger.transact(lambda connection: connection.execute(mine.values(heard_at=now_of(connection))))

    def close(self, experiment: str, state: str) -> None:
        """The query set is answered: the run is `LEARNING`, or `OVER`. Its large pictures are not needed any more."""

        def work(connection: Connection) -> None:
            mine = query_sets.c.experiment == experiment
            connection.execute(query_sets.update().where(mine).values(state=state, heard_at=now_of(connection)))
            waiting = sa.select(query_sets.c.experiment).where(query_sets.c.state == WAITING)
            needed = sa.select(questions.c.content_hash).where(questions.c.experiment.in_(waiting))
            large = pictures.delete().where(pictures.c.size == FULL)
            connection.execute(large.where(pictures.c.content_hash.not_in(needed)))

        self.ledger.transact(work)

    def forget(self, experiment: str) -> bool:
        """Ask nothing for a run that won't come back; false where it never asked. Its answers stay in the book."""

        def work(connection: Connection) -> bool:
            found = connection.execute(query_sets.delete().where(query_sets.c.experiment == experiment)).rowcount
            connection.execute(questions.delete().where(questions.c.experiment == experiment))
            left = sa.select(questions.c.content_hash)
            connection.execute(pictures.delete().where(pictures.c.content_hash.not_in(left)))
            return bool(found)

        return self.ledger.transact(work)

    def without_pictures(self, content_hashes: Sequence[str], size: str) -> list[str]:
        """Those of the images whose picture of that size isn't there."""

        def read(connection: Connection) -> set[str]:
            found: set[str] = set()
            for part in chunks(list(content_hashes)):
                here = (pictures.c.size == size, pictures.c.content_hash.in_(part))
                found.update(connection.execute(sa.select(pictures.c.content_hash).where(*here)).scalars())
            return found

        there = self.ledger.transact(read)
        return [digest for digest in content_hashes if digest not in there]

    def keep_picture(self, content_hash: str, size: str, data: bytes) -> None:
        """Keep the picture of an image; it is the same whoever made it."""
        row = {"content_hash": content_hash, "size": size, "data": data}
        self.ledger.transact(lambda connection: _put(connection, pictures, row))

    # ---- a page's side ---------------------------------------------------------------------------------------------

    def picture(self, content_hash: str, size: str) -> bytes | None:
        """The picture of an image, or its small one where that is left; None where it has none."""

        def read(connection: Connection) -> bytes | None:
            rows = connection.execute(
                sa.select(pictures.c.size, pictures.c.data).where(pictures.c.content_hash == content_hash)
            ).all()
            found: Mapping[str, bytes] = {row.size: row.data for row in rows}
            return found.get(size) or found.get(THUMB)

        return self.ledger.transact(read)

    def sets(self) -> list[PostedSet]:
        """What every experiment posted last; those that wait come first, the longest waiting before the others."""

        def read(connection: Connection) -> list[PostedSet]:
            now = now_of(connection)
            rows = connection.execute(sa.select(query_sets).order_by(query_sets.c.posted_at)).mappings().all()
            return sorted((_posted_set(row, now) for row in rows), key=lambda item: item.state != WAITING)

        return self.ledger.transact(read)

    def asked(self, experiment: str) -> list[Posted]:
        """All images that an experiment ever posted, by their positions 0, 1, 2, ..."""
        columns = [column for column in questions.c if column.name not in ("experiment", "ordinal")]
        mine = sa.select(*columns).where(questions.c.experiment == experiment).order_by(questions.c.position)
        return self.ledger.transact(lambda connection: [Posted(**row._mapping) for row in connection.execute(mine)])


def bought(ledger: Ledger, label_space: str, annotator: str, content_hashes: Sequence[str]) -> dict[str, int]:
    """Labels that are in the ledger already, {content hash: label}: nobody need be asked for these."""
    return ledger.transact(lambda connection: _bought(connection, label_space, annotator, content_hashes))


def answered(
    ledger: Ledger, experiment: str, label_space: str, annotator: str, content_hashes: Sequence[str]
) -> dict[str, int]:
    """What is known by now of images that `experiment` asks about, {content hash: label}: what is bought, and what
    people have said since in its book of answers."""

    def read(connection: Connection) -> dict[str, int]:
        found = _bought(connection, label_space, annotator, content_hashes)
        if answers in tables_in(connection):
            said = decide(events_of(connection, experiment))
            found.update((digest, said[digest].label) for digest in content_hashes if digest in said)
        return found

    return ledger.transact(read)


def waiting_for_people(connection: Connection) -> list[dict[str, Any]]:
    """Runs that wait, as plain JSON values: `experiment`, `round` of `rounds`, images `asked` and `answered`, `since`
    when (seconds since the epoch), and whether they are `silent`."""
    if not sa.inspect(connection).has_table(query_sets.name):
        return []
    now, found = now_of(connection), []
    waits = sa.select(query_sets).where(query_sets.c.state == WAITING).order_by(query_sets.c.posted_at)
    for row in connection.execute(waits).mappings().all():
        item = _posted_set(row, now)
        here = (questions.c.experiment == item.experiment, questions.c.round == item.round)
        asked = list(connection.execute(sa.select(questions.c.content_hash).where(*here)).scalars())
        known = set(_bought(connection, item.label_space, item.annotator, asked))
        if answers in tables_in(connection):
            known |= decide(events_of(connection, item.experiment)).keys() & set(asked)
        found.append(
            {
                "experiment": item.experiment,
                "round": item.round,
                "rounds": item.rounds,
                "asked": len(asked),
                "answered": len(known),
                "since": item.posted_at,
                "silent": item.silent,
            }
        )
    return found


def _bought(connection: Connection, label_space: str, annotator: str, content_hashes: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in chunks(list(content_hashes)):
        statement = sa.select(labels.c.content_hash, labels.c.label).where(
            labels.c.label_space == label_space,
            labels.c.annotator == annotator,
            labels.c.content_hash.in_(part),
            labels.c.label.is_not(None),
        )
        found.update((row.content_hash, row.label) for row in connection.execute(statement))
    return found


def _posted_set(row: Mapping[Any, Any], now: float) -> PostedSet:
    values = {key: value for key, value in row.items() if key != "class_names"}
    silent = values["state"] == WAITING and now - values["heard_at"] > SILENT_SECONDS
    return PostedSet(**values, classes=tuple(json.loads(row["class_names"])), silent=silent)


def _put(connection: Connection, table: sa.Table, row: Mapping[str, Any]) -> None:
    """Insert a row, or put it in the place of the one with its key."""
    keys = list(table.primary_key.columns)
    rest = {name: value for name, value in row.items() if not table.c[name].primary_key}
    statement = insert_of(connection, table).values(**row)
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=rest))
