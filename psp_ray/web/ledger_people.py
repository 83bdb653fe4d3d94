"""The people of a page for many runs: beside a SQLite ledger, or in the ledger's database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.labels.database import insert_of, make_tables, resolve_ledger_url
from psp_ray.labels.ledger import Ledger
from psp_ray.web.crew import FolderPeople, PeopleStore, Person

page = sa.MetaData()
page_people = sa.Table(
    "page_people",
    page,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("role", sa.String(8), nullable=False),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
)


class LedgerPeople:
    """In a table of a database that asks for a password itself. Backups of the ledger leave it out."""

    shared = True

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        ledger.transact(lambda connection: make_tables(connection, page))

    def load(self) -> list[Person]:
        columns = sa.select(page_people.c.name, page_people.c.role, page_people.c.token)
        statement = columns.order_by(page_people.c.number, page_people.c.name)
        return self._ledger.transact(lambda connection: [Person(*row) for row in connection.execute(statement)])

    def save(self, people: Sequence[Person]) -> None:
        def work(connection: Connection) -> None:
            for number, person in enumerate(people):
                statement = insert_of(connection, page_people).values(**vars(person), number=number)
                changed = {"role": person.role}  # the link of a known person stays
                connection.execute(statement.on_conflict_do_update(index_elements=[page_people.c.name], set_=changed))

        self._ledger.transact(work)


def people_of(ledger: Ledger, address: str) -> PeopleStore:
    """Where the people of a ledger's page are kept: whoever may read the file of a SQLite ledger must not learn their
    links by it."""
    url = resolve_ledger_url(address)
    if url.get_backend_name() != "sqlite":
        return LedgerPeople(ledger)
    file = Path(str(url.database))
    return FolderPeople(file.with_name(f".{file.name}.people.json"), shared=True)
