"""Two copies of one ledger that went on apart, as one: no purchase, answer or correction of either is lost."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.labels.answer_book import answers, book, settled, tables_in, taken
from psp_ray.labels.database import fill_of, insert_of
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.schema import corrections, experiments, label_spaces, labels, metadata, requests, uses, votes

Rows = list[dict[str, Any]]


def merge(ledger: Ledger, other: Ledger) -> int:
    """Take into `ledger` what only `other` knows; returns how many labels it had not. Claims are left out.

    Where both hold a label of an image, `ledger`'s stays; corrections of both are in the history, and the latest one
    counts.
    """
    with other.snapshot() as connection:
        rows = {table.name: _rows(connection, table) for table in metadata.sorted_tables}
        rows |= {table.name: _rows(connection, table) for table in tables_in(connection)}
    return ledger.transact(lambda connection: _merge(connection, rows))


def _rows(connection: Connection, table: sa.Table) -> Rows:
    return [dict(row) for row in connection.execute(sa.select(table)).mappings()]


def _merge(connection: Connection, rows: dict[str, Rows]) -> int:
    for table in (label_spaces, experiments, requests, votes):
        _insert(connection, table, rows[table.name])
    for row in rows[requests.name]:
        done = requests.update().where(requests.c.request_id == row["request_id"], requests.c.completed_at.is_(None))
        connection.execute(done.values(completed_at=row["completed_at"]))
    new = 0
    for row in rows[labels.name]:
        if row["label"] is not None:
            new += connection.execute(fill_of(connection, labels).values(**row)).rowcount
    for row in rows[uses.name]:
        if row["label"] is not None:
            connection.execute(fill_of(connection, uses).values(**row))
    _corrections(connection, rows[corrections.name])
    if answers.name in rows:
        _book(connection, rows)
    return new


def _book(connection: Connection, rows: dict[str, Rows]) -> None:
    """Events of the other book behind ours, under numbers of their own."""
    book.create_all(connection)
    what = ("experiment", "content_hash", "person", "kind", "label", "batch", "given_at")
    numbers = {tuple(row[name] for name in what): row["number"] for row in _rows(connection, answers)}
    now: dict[int, int] = {}
    for row in sorted(rows[answers.name], key=lambda row: row["number"]):
        event = tuple(row[name] for name in what)
        if event not in numbers:
            values = {name: value for name, value in row.items() if name != "number"}
            values["undoes"] = now.get(row["undoes"], row["undoes"])
            result = connection.execute(answers.insert().values(**values))
            assert result.inserted_primary_key is not None
            numbers[event] = int(result.inserted_primary_key[0])
        now[row["number"]] = numbers[event]
    for table in (settled, taken):
        moved = [row | {"number": now.get(row["number"], row["number"])} for row in rows.get(table.name, [])]
        _insert(connection, table, moved)


def _insert(connection: Connection, table: sa.Table, rows: Rows) -> None:
    if rows:
        connection.execute(insert_of(connection, table).on_conflict_do_nothing(), rows)


def _corrections(connection: Connection, theirs: Rows) -> None:
    key = ("label_space", "annotator", "content_hash")
    what = ("previous", "label", "corrected_by", "corrected_at")
    ours: dict[tuple[Any, ...], Rows] = defaultdict(list)
    for row in _rows(connection, corrections):
        ours[tuple(row[name] for name in key)].append(row)
    touched = set()
    for row in theirs:
        place = tuple(row[name] for name in key)
        known = [tuple(mine[name] for name in what) for mine in ours[place]]
        if tuple(row[name] for name in what) not in known:
            ours[place].append(row)
            touched.add(place)
    for place in sorted(touched):
        history = sorted(ours[place], key=lambda row: (row["corrected_at"], row["number"]))
        at = dict(zip(key, place, strict=True))
        connection.execute(corrections.delete().filter_by(**at))
        connection.execute(corrections.insert(), [row | {"number": n} for n, row in enumerate(history, 1)])
        now = history[-1]["label"]
        connection.execute(labels.update().filter_by(**at).where(labels.c.label.is_not(None)).values(label=now))
        users = sa.select(experiments.c.experiment).filter_by(label_space=at["label_space"], annotator=at["annotator"])
        connection.execute(
            uses.update()
            .where(uses.c.content_hash == at["content_hash"], uses.c.label.is_not(None), uses.c.experiment.in_(users))
            .values(label=now)
        )
