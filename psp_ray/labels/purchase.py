"""What happens inside the ledger's transactions: reserve, claim, buy, give back. See `psp_ray.labels.ledger`.

Every function takes an open connection, writes nothing when it raises (the transaction is rolled back), and may be
repeated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.core.errors import OracleError
from psp_ray.labels import limits
from psp_ray.labels.annotators.base import Item
from psp_ray.labels.claims import claim, label_row, rows_of
from psp_ray.labels.database import chunks, fill_of, insert_of, now_of
from psp_ray.labels.orders import Order, Progress, price
from psp_ray.labels.schema import experiments, label_spaces, labels, requests, uses


def advance(connection: Connection, order: Order) -> Progress:
    """Take `order` as far as it goes without the annotator. Raises as `Ledger.advance` says."""
    now = now_of(connection)
    enroll(connection, order, now)
    if _register(connection, order, now):
        return Progress(_answer(connection, order))
    open_samples = _reserve(connection, order)
    by_hash: dict[str, str] = {}
    for sample, content_hash in open_samples:
        by_hash.setdefault(content_hash, sample)
    claim(connection, order, sorted(by_hash), now)
    known: dict[str, int] = {}
    mine: list[Item] = []
    waiting = ""
    for row in rows_of(connection, order, list(by_hash)):
        if row.label is not None:
            known[row.content_hash] = row.label
        elif row.request_id == order.request_id:
            mine.append(Item(by_hash[row.content_hash], row.content_hash, order.round))
        elif not waiting:
            waiting = (
                f"sample {by_hash[row.content_hash]!r} is being labeled for experiment {row.paid_by!r} "
                f"(claimed for another {max(0.0, row.lease_until - now):.0f} s)"
            )
    if not waiting and len(known) + len(mine) < len(by_hash):
        # On PostgreSQL a claim can be given back between our insert and our look: it is free the next time.
        waiting = "an image is being labeled for another experiment"
    if mine:
        limits.check_ledger(connection, order, len(mine))
    if mine or waiting:
        place = {content_hash: at for at, content_hash in enumerate(by_hash)}
        return Progress(None, tuple(sorted(mine, key=lambda item: place[item.content_hash])), waiting)
    tell = (
        uses.update()
        .where(
            uses.c.experiment == order.experiment,
            uses.c.sample_id == sa.bindparam("sample"),
            uses.c.label.is_(None),
        )
        .values(label=sa.bindparam("told"), cost=sa.bindparam("price"))
    )
    told = [
        {"sample": sample, "told": known[content_hash], "price": price(order, known[content_hash])}
        for sample, content_hash in open_samples
    ]
    if told:
        connection.execute(tell, told)
    connection.execute(requests.update().where(requests.c.request_id == order.request_id).values(completed_at=now))
    return Progress(_answer(connection, order))


def place(connection: Connection, order: Order) -> str:
    """The request id under which this query set is bought; see `Ledger.place`."""
    base = order.request_id
    rows = connection.execute(_of_round(order)).all()
    for row in rows:
        if row.digest == order.digest:
            return str(row.request_id)
    if all(row.request_id != base for row in rows):
        return base
    taken = {row.request_id for row in rows}
    return next(name for name in (f"{base}+{number}" for number in range(2, len(rows) + 3)) if name not in taken)


def left(connection: Connection, order: Order) -> dict[str, int]:
    """What the experiment was told in the order's round about samples that the order doesn't ask for."""
    asked = set(order.sample_ids)
    statement = sa.select(uses.c.sample_id, uses.c.label).where(
        uses.c.experiment == order.experiment, uses.c.round == order.round, uses.c.label.is_not(None)
    )
    rows = connection.execute(statement.order_by(uses.c.sample_id))
    return {row.sample_id: row.label for row in rows if row.sample_id not in asked}


def _of_round(order: Order) -> sa.Select[Any]:
    return sa.select(requests).where(requests.c.experiment == order.experiment, requests.c.round == order.round)


def store(connection: Connection, order: Order, bought: Sequence[tuple[str, int]]) -> None:
    """Write (content hash, label) pairs, paid for by the order's experiment; what is already bought stays."""
    now = now_of(connection)
    rows = [
        label_row(order, content_hash)
        | {"label": label, "cost": price(order, label), "paid_at": now, "lease_until": None}
        for content_hash, label in sorted(bought)
    ]
    if rows:
        connection.execute(fill_of(connection, labels), rows)


def release(connection: Connection, order: Order) -> None:
    """Drop the claims and reservations of an order, and the order itself where it bought nothing."""
    mine = order.request_id
    connection.execute(labels.delete().where(labels.c.request_id == mine, labels.c.label.is_(None)))
    connection.execute(uses.delete().where(uses.c.request_id == mine, uses.c.label.is_(None)))
    for table in (labels, uses):
        if connection.execute(sa.select(table.c.request_id).where(table.c.request_id == mine).limit(1)).first():
            return
    connection.execute(requests.delete().where(requests.c.request_id == mine))


def enroll(connection: Connection, order: Order, now: float) -> None:
    """Note the experiment, and on PostgreSQL let one request of it in at a time (its caps are checked next)."""
    names = json.dumps(list(order.class_names))
    connection.execute(
        insert_of(connection, label_spaces)
        .values(label_space=order.label_space, class_names=names)
        .on_conflict_do_nothing()
    )
    connection.execute(
        insert_of(connection, experiments)
        .values(
            experiment=order.experiment,
            label_space=order.label_space,
            annotator=order.annotator,
            created_at=now,
        )
        .on_conflict_do_nothing()
    )
    row = connection.execute(
        sa.select(experiments).where(experiments.c.experiment == order.experiment).with_for_update()
    ).one()
    if row.label_space != order.label_space:
        raise OracleError(
            f"ledger {order.ledger}: experiment {order.experiment!r} was begun with other classes; "
            "give this run another name or output folder"
        )
    if row.annotator != order.annotator:
        raise OracleError(
            f"ledger {order.ledger}: experiment {order.experiment!r} was begun with annotator {row.annotator!r}, "
            f"not {order.annotator!r}; give this run another name or output folder"
        )


def _register(connection: Connection, order: Order, now: float) -> bool:
    """Note the request. True where it has been answered before."""
    connection.execute(
        insert_of(connection, requests)
        .values(
            request_id=order.request_id,
            experiment=order.experiment,
            round=order.round,
            digest=order.digest,
            created_at=now,
        )
        .on_conflict_do_nothing()
    )
    row = connection.execute(sa.select(requests).where(requests.c.request_id == order.request_id)).one()
    if (row.experiment, row.round, row.digest) != (order.experiment, order.round, order.digest):
        raise OracleError(
            f"ledger {order.ledger}: request {order.request_id!r} was made before for other samples "
            f"(experiment {row.experiment!r}, round {row.round}); resume with the settings it was begun with, "
            "or use a new output folder"
        )
    return row.completed_at is not None


def _reserve(connection: Connection, order: Order) -> list[tuple[str, str]]:
    """Uses for all samples of `order`, within the caps. Returns those still without a label, in order asked."""
    rows: dict[str, Any] = {}
    for part in chunks(order.sample_ids):
        statement = sa.select(uses).where(uses.c.experiment == order.experiment, uses.c.sample_id.in_(part))
        rows.update((row.sample_id, row) for row in connection.execute(statement))
    new = []
    for ordinal, (sample, content_hash) in enumerate(zip(order.sample_ids, order.content_hashes, strict=True)):
        if sample not in rows:
            new.append(
                {
                    "experiment": order.experiment,
                    "sample_id": sample,
                    "content_hash": content_hash,
                    "round": order.round,
                    "request_id": order.request_id,
                    "ordinal": ordinal,
                    "label": None,
                    "cost": order.cost,
                }
            )
        elif rows[sample].content_hash != content_hash:
            raise OracleError(
                f"sample {sample!r} has changed since experiment {order.experiment!r} had it labeled; "
                "restore the image, or start a new output folder"
            )
    if new:
        limits.check_experiment(connection, order, len(new))
        connection.execute(uses.insert(), new)
    return [
        (sample, content_hash)
        for sample, content_hash in zip(order.sample_ids, order.content_hashes, strict=True)
        if sample not in rows or rows[sample].label is None
    ]


def _answer(connection: Connection, order: Order) -> dict[str, int]:
    answer: dict[str, int] = {}
    for part in chunks(order.sample_ids):
        rows = connection.execute(
            sa.select(uses.c.sample_id, uses.c.label).where(
                uses.c.experiment == order.experiment, uses.c.sample_id.in_(part)
            )
        )
        answer.update((row.sample_id, row.label) for row in rows)
    return answer
