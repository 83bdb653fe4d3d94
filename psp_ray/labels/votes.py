"""What each of several annotators said about an image, in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.labels.database import insert_of, now_of
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.schema import votes


@dataclass(frozen=True)
class Vote:
    """What one annotator said about one image, and its price."""

    content_hash: str
    annotator: str
    label: int
    cost: float


def record_votes(ledger: Ledger, label_space: str, group: str, paid_by: str, new: Sequence[Vote]) -> None:
    """Make the answers of a group of annotators durable; an annotator's first answer about an image stays."""

    def write(connection: Connection) -> None:
        now = now_of(connection)
        rows = [
            {
                "label_space": label_space,
                "annotator": group,
                "content_hash": vote.content_hash,
                "voter": vote.annotator,
                "label": vote.label,
                "cost": vote.cost,
                "paid_by": paid_by,
                "voted_at": now,
            }
            for vote in sorted(new, key=lambda vote: (vote.content_hash, vote.annotator))
        ]
        connection.execute(insert_of(connection, votes).on_conflict_do_nothing(), rows)

    if new:
        ledger.transact(write)


def load_votes(ledger: Ledger, label_space: str, group: str) -> list[Vote]:
    """All answers of a group of annotators so far, over a label space."""
    statement = (
        sa.select(votes.c.content_hash, votes.c.voter, votes.c.label, votes.c.cost)
        .where(votes.c.label_space == label_space, votes.c.annotator == group)
        .order_by(votes.c.content_hash, votes.c.voter)
    )
    return ledger.transact(lambda connection: [Vote(*row) for row in connection.execute(statement)])


def vote_counts(ledger: Ledger) -> list[dict[str, Any]]:
    """Answers and pay of each annotator of a group, as plain values."""
    statement = (
        sa.select(votes.c.annotator, votes.c.voter, sa.func.count(), sa.func.sum(votes.c.cost))
        .group_by(votes.c.annotator, votes.c.voter)
        .order_by(votes.c.annotator, votes.c.voter)
    )
    rows = ledger.transact(lambda connection: connection.execute(statement).all())
    return [{"group": g, "annotator": a, "answers": int(n), "cost": float(c)} for g, a, n, c in rows]
