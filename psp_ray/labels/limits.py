"""Caps over all experiments of a ledger, kept in the ledger itself, so that they hold across clusters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.core.answers import SKIP
from psp_ray.core.errors import BudgetError
from psp_ray.labels.schema import labels, limits, requests

if TYPE_CHECKING:
    from psp_ray.labels.purchase import Order


def set_limits(connection: Connection, label_cap: int | None, cost_cap: float | None) -> None:
    """Set both caps; None lifts one. They may be below what is bought already: then nothing more is."""
    connection.execute(limits.delete())
    connection.execute(limits.insert().values(id=1, label_cap=label_cap, cost_cap=cost_cap))


def change_limits(connection: Connection, label_cap: float | None, cost_cap: float | None) -> None:
    """Set the caps that are given; None leaves one as it is, infinity lifts it."""
    labels_now, cost_now = get_limits(connection)
    if label_cap is not None:
        labels_now = None if math.isinf(label_cap) else int(label_cap)
    if cost_cap is not None:
        cost_now = None if math.isinf(cost_cap) else cost_cap
    set_limits(connection, labels_now, cost_now)


def get_limits(connection: Connection) -> tuple[int | None, float | None]:
    """(label_cap, cost_cap) of all experiments together."""
    row = connection.execute(sa.select(limits.c.label_cap, limits.c.cost_cap)).first()
    return (None, None) if row is None else (row.label_cap, row.cost_cap)


def check(connection: Connection, order: Order, claimed: int) -> None:
    """Refuse what `order` has just claimed where all purchases and claims together overrun a cap.

    Claims count as if bought, imported labels don't count. The row lock makes transactions that claim pass here one
    after the other: whoever comes second sees the first one's claims. Raises BudgetError; the transaction is then
    rolled back.
    """
    row = connection.execute(sa.select(limits).with_for_update()).first()
    if row is None or (row.label_cap is None and row.cost_cap is None):
        return
    counted = sa.or_(labels.c.label.is_(None), labels.c.label != SKIP)
    count, cost = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(labels.c.cost), 0.0)).where(counted, is_own())
    ).one()
    if row.label_cap is not None and count > row.label_cap:
        raise BudgetError(
            f"label_cap {row.label_cap} of ledger {order.ledger}: all experiments have bought or claimed "
            f"{count - claimed} labels and this request needs {claimed} more{_hint(connection)}; raise it with "
            "`psp-ray oracle start --label-cap` or ask for fewer"
        )
    if row.cost_cap is not None and cost > row.cost_cap * (1 + 1e-12) + 1e-9 * min(order.cost, 1.0):
        raise BudgetError(
            f"cost_cap {row.cost_cap:g} of ledger {order.ledger}: all experiments have spent or claimed "
            f"{cost - claimed * order.cost:g} and this request needs {claimed * order.cost:g} more{_hint(connection)}; "
            "raise it with `psp-ray oracle start --cost-cap` or ask for fewer"
        )


def is_own() -> Any:
    """True for labels that this ledger's requests bought or claimed, false for imported ones."""
    return labels.c.request_id.in_(sa.select(requests.c.request_id))


def stale_claims(connection: Connection) -> list[dict[str, Any]]:
    """Claims whose lease is over, for each experiment that made them: `labels` claimed, `since` when they are stale."""
    from psp_ray.labels.purchase import now_of

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
    from psp_ray.labels.purchase import now_of

    statement = labels.delete().where(_is_stale(now_of(connection)))
    if experiment is not None:
        statement = statement.where(labels.c.paid_by == experiment)
    return connection.execute(statement).rowcount


def _is_stale(now: float) -> Any:
    return sa.and_(labels.c.label.is_(None), labels.c.lease_until < now)


def _hint(connection: Connection) -> str:
    stale = sum(row["labels"] for row in stale_claims(connection))
    return f" ({stale} of them claimed by clients that fell silent: `psp-ray oracle drop-claims`)" if stale else ""
