"""Caps: of one experiment, and of all together, kept in the ledger itself so that they hold across clusters."""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.core.answers import SKIP
from psp_ray.core.errors import BudgetError
from psp_ray.core.words import counted
from psp_ray.labels.claims import stale_claims
from psp_ray.labels.counts import is_skip
from psp_ray.labels.orders import Order
from psp_ray.labels.schema import labels, limits, requests, uses


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


def check_experiment(connection: Connection, order: Order, more: int) -> None:
    """Refuse `more` samples of `order` where its experiment's own caps would be overrun.

    Caps count labels used at their price, bought or reused, so that a reused label never changes the course. Raises
    BudgetError.
    """
    weight = sa.case((is_skip(uses.c.label), 0), else_=1)
    used, cost = connection.execute(
        sa.select(sa.func.coalesce(sa.func.sum(weight), 0), sa.func.coalesce(sa.func.sum(uses.c.cost), 0.0)).where(
            uses.c.experiment == order.experiment
        )
    ).one()
    if order.label_cap is not None and used + more > order.label_cap:
        raise BudgetError(
            f"label_cap {order.label_cap}: experiment {order.experiment!r} has {counted(used, 'label')} and round "
            f"{order.round} needs {more} more; raise label_cap or ask for fewer labels per round"
        )
    total = cost + more * order.cost
    # The slack forgives rounding in a sum of prices, never a whole label.
    if order.cost_cap is not None and total > order.cost_cap * (1 + 1e-12) + 1e-9 * min(order.cost, 1.0):
        raise BudgetError(
            f"cost_cap {order.cost_cap:g}: experiment {order.experiment!r} has used labels worth {cost:g} and "
            f"round {order.round} needs {more} more at {order.cost:g} each; raise cost_cap or ask for fewer"
        )


def check_ledger(connection: Connection, order: Order, claimed: int) -> None:
    """Refuse what `order` has just claimed where all purchases and claims together overrun a cap.

    Claims count as if bought, imported labels don't count. The row lock makes transactions that claim pass here one
    after the other: whoever comes second sees the first one's claims. Raises BudgetError; the transaction is then
    rolled back.
    """
    row = connection.execute(sa.select(limits).with_for_update()).first()
    if row is None or (row.label_cap is None and row.cost_cap is None):
        return
    counts = sa.or_(labels.c.label.is_(None), labels.c.label != SKIP)
    count, cost = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(labels.c.cost), 0.0)).where(counts, is_own())
    ).one()
    if row.label_cap is not None and count > row.label_cap:
        raise BudgetError(
            f"label_cap {row.label_cap} of ledger {order.ledger}: all experiments have bought or claimed "
            f"{counted(count - claimed, 'label')} and this request needs {claimed} "
            f"more{_hint(connection)}; raise it with "
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


def _hint(connection: Connection) -> str:
    stale = sum(row["labels"] for row in stale_claims(connection))
    return f" ({stale} of them claimed by clients that fell silent: `psp-ray oracle drop-claims`)" if stale else ""
