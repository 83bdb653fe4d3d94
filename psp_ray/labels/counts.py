"""How many labels an experiment used and paid for. Skips are in none of these counts."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.core.answers import SKIP
from psp_ray.labels.schema import labels, requests, uses


def count_used(connection: Connection, experiment: str, through_round: int | None) -> int:
    """Labels that an experiment was given, up to and with a round where one is named."""
    statement = (
        sa.select(sa.func.count())
        .select_from(uses)
        .where(uses.c.experiment == experiment, uses.c.label.is_not(None), sa.not_(is_skip(uses.c.label)))
    )
    if through_round is not None:
        statement = statement.where(uses.c.round <= through_round)
    return connection.execute(statement).scalar_one()


def count_paid(connection: Connection, experiment: str, through_round: int | None) -> tuple[int, float]:
    """Labels that an experiment bought and their cost, up to and with a round where one is named."""
    counted = sa.case((is_skip(labels.c.label), 0), else_=1)
    statement = (
        sa.select(sa.func.coalesce(sa.func.sum(counted), 0), sa.func.coalesce(sa.func.sum(labels.c.cost), 0.0))
        .select_from(labels.join(requests, requests.c.request_id == labels.c.request_id))
        .where(labels.c.paid_by == experiment, labels.c.label.is_not(None))
    )
    if through_round is not None:
        statement = statement.where(requests.c.round <= through_round)
    count, cost = connection.execute(statement).one()
    return int(count), float(cost)


def is_skip(column: Any) -> Any:
    """True for a sample that the annotator skipped; false, not unknown, where there is no answer yet."""
    return sa.and_(column.is_not(None), column == SKIP)
