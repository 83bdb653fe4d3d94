"""Claims: rows of `labels` that hold no label yet, and for how long they are left to whoever made them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.labels.database import chunks, insert_of, now_of
from psp_ray.labels.orders import Order
from psp_ray.labels.schema import labels


def claim(connection: Connection, order: Order, content_hashes: list[str], now: float) -> None:
    """Claim what is free or whose lease is over; sorted, so that two clients can't deadlock."""
    if not content_hashes:
        return
    lease = {"lease_until": now + order.lease_seconds}
    connection.execute(
        insert_of(connection, labels).on_conflict_do_nothing(),
        [label_row(order, content_hash) | lease for content_hash in content_hashes],
    )
    for part in chunks(content_hashes):
        connection.execute(
            labels.update()
            .where(
                labels.c.label_space == order.label_space,
                labels.c.annotator == order.annotator,
                labels.c.content_hash.in_(part),
                labels.c.label.is_(None),
                sa.or_(labels.c.request_id == order.request_id, labels.c.lease_until < now),
            )
            .values(request_id=order.request_id, paid_by=order.experiment, cost=order.cost, **lease)
        )


def renew(connection: Connection, order: Order) -> None:
    """Prolong what the order has claimed and not yet bought."""
    connection.execute(
        labels.update()
        .where(labels.c.request_id == order.request_id, labels.c.label.is_(None))
        .values(lease_until=now_of(connection) + order.lease_seconds)
    )


def label_row(order: Order, content_hash: str) -> dict[str, Any]:
    """What a claim and a purchase have in common."""
    return {
        "label_space": order.label_space,
        "annotator": order.annotator,
        "content_hash": content_hash,
        "cost": order.cost,
        "paid_by": order.experiment,
        "request_id": order.request_id,
    }


def rows_of(
    connection: Connection, order: Order, content_hashes: Sequence[str], *, lock: bool = False
) -> Iterator[Any]:
    """What the ledger holds of these images, claimed or bought; with `lock`, for this transaction to change."""
    for part in chunks(content_hashes):
        statement = sa.select(labels).where(
            labels.c.label_space == order.label_space,
            labels.c.annotator == order.annotator,
            labels.c.content_hash.in_(part),
        )
        yield from connection.execute(statement.with_for_update() if lock else statement)


def stale_claims(connection: Connection) -> list[dict[str, Any]]:
    """Claims whose lease is over, for each experiment that made them: `labels` claimed, `since` when they are stale."""
    statement = (
        sa.select(labels.c.paid_by, sa.func.count(), sa.func.max(labels.c.lease_until))
        .where(_is_stale(now_of(connection)))
        .group_by(labels.c.paid_by)
        .order_by(labels.c.paid_by)
    )
    return [
        {"experiment": name, "labels": int(count), "since": float(since)}
        for name, count, since in connection.execute(statement)
    ]


def drop_claims(connection: Connection, experiment: str | None) -> int:
    """Drop claims whose lease is over, of one experiment where it is named; returns how many."""
    statement = labels.delete().where(_is_stale(now_of(connection)))
    if experiment is not None:
        statement = statement.where(labels.c.paid_by == experiment)
    return connection.execute(statement).rowcount


def _is_stale(now: float) -> Any:
    return sa.and_(labels.c.label.is_(None), labels.c.lease_until < now)
