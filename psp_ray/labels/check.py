"""Whether a ledger is whole: its file, and what its tables say of each other."""

from __future__ import annotations

import json

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.labels.ledger import Ledger
from psp_ray.labels.schema import experiments, label_spaces, labels, requests, uses


def check(ledger: Ledger) -> list[str]:
    """What is wrong with the ledger, a line each; nothing where it is whole."""
    return ledger.transact(lambda connection: [*_file(connection), *_tables(connection)])


def _file(connection: Connection) -> list[str]:
    if connection.dialect.name != "sqlite":
        return []
    found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
    broken = [line for line in found if line != "ok"]
    dangling = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    return [*broken, *(f"table {row[0]}: row {row[1]} names nothing in {row[2]}" for row in dangling)]


def _tables(connection: Connection) -> list[str]:
    told = (
        uses.join(experiments, experiments.c.experiment == uses.c.experiment)
        .outerjoin(
            labels,
            sa.and_(
                labels.c.label_space == experiments.c.label_space,
                labels.c.annotator == experiments.c.annotator,
                labels.c.content_hash == uses.c.content_hash,
            ),
        )
        .join(requests, requests.c.request_id == uses.c.request_id, isouter=True)
    )
    columns = (
        uses.c.experiment,
        uses.c.sample_id,
        uses.c.label,
        labels.c.label.label("bought"),
        requests.c.completed_at,
    )
    lines = []
    for row in connection.execute(sa.select(*columns).select_from(told).order_by(uses.c.experiment, uses.c.sample_id)):
        where = f"experiment {row.experiment!r}, sample {row.sample_id!r}"
        if row.label is not None and row.bought is None:
            lines.append(f"{where}: was told a label that nobody bought")
        elif row.label is not None and row.label != row.bought:
            lines.append(f"{where}: was told {row.label}, but {row.bought} was bought")
        elif row.label is None and row.completed_at is not None:
            lines.append(f"{where}: has no answer, but its request is done")
    counts = {
        space: len(json.loads(names)) if names.startswith("[") else 0
        for space, names in connection.execute(sa.select(label_spaces.c.label_space, label_spaces.c.class_names))
    }
    bought = sa.select(labels.c.label_space, labels.c.content_hash, labels.c.label, labels.c.cost)
    for space, content, label, cost in connection.execute(bought.where(labels.c.label.is_not(None))):
        count = counts.get(space, 0)
        if not -2 <= label < count:
            lines.append(f"image {content}: label {label} is none of the {count} classes")
        if not cost >= 0:
            lines.append(f"image {content}: cost {cost} is no price")
    return lines
