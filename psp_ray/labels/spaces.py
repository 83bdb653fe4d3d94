"""An experiment whose classes are renamed or become more: its labels come with it into the new label space.

A label is the index of a class, and a class keeps its index, so no label changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.core.errors import OracleError
from psp_ray.labels.answer_book import tables_in, taken
from psp_ray.labels.database import chunks, insert_of
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.schema import corrections, experiments, label_space_of, label_spaces, labels, uses, votes

COPIED = "import/classes"
"""Request of a label that is in its old label space, too, since others use it there: nobody paid for it twice."""


def take_classes(ledger: Ledger, experiment: str, class_names: Sequence[str]) -> bool:
    """Let `experiment` go on with other names of its classes, and more of them behind; its labels come with it.

    False where it has these already, or is not known. Raises OracleError for fewer classes.
    """
    return ledger.transact(lambda connection: _take(connection, experiment, class_names))


def _take(connection: Connection, experiment: str, class_names: Sequence[str]) -> bool:
    """Move an experiment's labels, votes and corrections to the label space of `class_names`; False where it is there.

    What another experiment of the old label space uses stays there, too. Labels that the new one has already win.
    """
    row = connection.execute(sa.select(experiments).where(experiments.c.experiment == experiment)).one_or_none()
    new = label_space_of(class_names)
    if row is None or row.label_space == new:
        return False
    old = row.label_space
    names = connection.execute(sa.select(label_spaces.c.class_names).where(label_spaces.c.label_space == old))
    count = len(json.loads(names.scalar_one()))
    if len(class_names) > count:
        _begin_round_anew(connection, experiment)
    if len(class_names) < count:
        raise OracleError(f"experiment {experiment!r} has {count} classes, so not {len(class_names)}; add some back")
    values = {"label_space": new, "class_names": json.dumps(list(class_names))}
    connection.execute(insert_of(connection, label_spaces).values(**values).on_conflict_do_nothing())
    unfinished = (labels.c.label_space == old, labels.c.paid_by == experiment, labels.c.label.is_(None))
    connection.execute(labels.delete().where(*unfinished))  # claims: who asks again claims anew
    mine = _used(connection, uses.c.experiment == experiment)
    same = (experiments.c.label_space == old, experiments.c.annotator == row.annotator)
    others = sa.select(experiments.c.experiment).where(*same, experiments.c.experiment != experiment)
    shared = mine & _used(connection, uses.c.experiment.in_(others))
    for table in (labels, votes, corrections):
        _move(connection, table, (old, row.annotator, new), sorted(mine - shared), sorted(shared))
    connection.execute(experiments.update().where(experiments.c.experiment == experiment).values(label_space=new))
    return True


def _begin_round_anew(connection: Connection, experiment: str) -> None:
    """The open round gets another query set: what people have answered of the old one comes in before it."""
    if taken not in tables_in(connection):
        return
    newest = sa.select(sa.func.max(taken.c.round)).where(taken.c.experiment == experiment).scalar_subquery()
    connection.execute(taken.delete().where(taken.c.experiment == experiment, taken.c.round == newest))


def _used(connection: Connection, condition: Any) -> set[str]:
    return set(connection.execute(sa.select(uses.c.content_hash).where(condition)).scalars())


def _move(
    connection: Connection, table: sa.Table, way: tuple[str, str, str], own: Sequence[str], shared: Sequence[str]
) -> None:
    """Rows of `table` about `own` images from one label space to the other; those about `shared` ones are copied."""
    old, annotator, new = way
    here = (table.c.label_space == old, table.c.annotator == annotator)
    there = sa.select(table.c.content_hash).where(table.c.label_space == new, table.c.annotator == annotator)
    held = set(connection.execute(there).scalars())
    for part in chunks([digest for digest in own if digest not in held]):
        moved = table.update().where(*here, table.c.content_hash.in_(part))
        connection.execute(moved.values(label_space=new))
    for part in chunks([digest for digest in shared if digest not in held]):
        rows = connection.execute(sa.select(table).where(*here, table.c.content_hash.in_(part))).mappings()
        copies = [{**row, "label_space": new, **_free(table)} for row in rows]
        if copies:
            connection.execute(insert_of(connection, table).on_conflict_do_nothing(), copies)


def _free(table: sa.Table) -> dict[str, Any]:
    """What is different in a copy: it cost nothing."""
    if table is labels:
        return {"cost": 0.0, "paid_by": COPIED, "request_id": COPIED, "lease_until": None}
    return {"cost": 0.0} if table is votes else {}
