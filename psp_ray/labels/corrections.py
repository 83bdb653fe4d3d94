"""Changing bought labels inside the ledger's transactions; every change is kept. See `Ledger.correct`."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.core.answers import SKIP
from psp_ray.labels.claims import rows_of
from psp_ray.labels.database import now_of
from psp_ray.labels.orders import Order, price
from psp_ray.labels.schema import corrections, experiments, labels, uses


def correct(connection: Connection, order: Order, changes: Mapping[str, int]) -> int:
    """Change bought labels, {content hash: label}, for all experiments that use them; see `Ledger.correct`."""
    now = now_of(connection)
    done = 0
    for row in list(rows_of(connection, order, sorted(changes), lock=True)):
        label = changes[row.content_hash]
        if row.label is None or row.label == label:
            continue
        key = (
            labels.c.label_space == order.label_space,
            labels.c.annotator == order.annotator,
            labels.c.content_hash == row.content_hash,
        )
        number = connection.execute(
            sa.select(sa.func.coalesce(sa.func.max(corrections.c.number), 0)).where(
                corrections.c.label_space == order.label_space,
                corrections.c.annotator == order.annotator,
                corrections.c.content_hash == row.content_hash,
            )
        ).scalar_one()
        connection.execute(
            corrections.insert().values(
                label_space=order.label_space,
                annotator=order.annotator,
                content_hash=row.content_hash,
                number=number + 1,
                previous=row.label,
                label=label,
                corrected_by=order.experiment,
                corrected_at=now,
            )
        )
        # A skipped image that gets its label after all is paid for now; a label that is taken back stays paid for.
        late = {"cost": price(order, label)} if row.label == SKIP else {}
        connection.execute(labels.update().where(*key).values(label=label, **late))
        connection.execute(
            uses.update()
            .where(
                uses.c.content_hash == row.content_hash,
                uses.c.label.is_not(None),
                uses.c.experiment.in_(
                    sa.select(experiments.c.experiment).where(
                        experiments.c.label_space == order.label_space, experiments.c.annotator == order.annotator
                    )
                ),
            )
            .values(label=label, **late)
        )
        done += 1
    return done


def corrected(connection: Connection, order: Order) -> dict[str, int]:
    """What the corrected samples of `order`'s experiment, up to and with its round, are now: {sample_id: label}."""
    statement = (
        sa.select(uses.c.sample_id, uses.c.label)
        .where(
            uses.c.experiment == order.experiment,
            uses.c.round <= order.round,
            uses.c.label.is_not(None),
            uses.c.content_hash.in_(
                sa.select(corrections.c.content_hash).where(
                    corrections.c.label_space == order.label_space, corrections.c.annotator == order.annotator
                )
            ),
        )
        .order_by(uses.c.sample_id)
    )
    return {row.sample_id: row.label for row in connection.execute(statement)}
