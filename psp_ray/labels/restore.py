"""Putting back what a ledger lost: a run's checkpoints know every answer that the run was given.

A ledger that is missing, older than the run, emptied, or without its log of the last commits would let the run buy
its labels again and count them wrongly. See `Ledger.restore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.core.answers import SKIP
from psp_ray.core.records import Int32Array
from psp_ray.labels.claims import label_row, rows_of
from psp_ray.labels.counts import count_paid
from psp_ray.labels.database import chunks, fill_of, insert_of, now_of
from psp_ray.labels.orders import Order, price, request_id
from psp_ray.labels.purchase import enroll
from psp_ray.labels.schema import corrections, labels, requests, uses


@dataclass(frozen=True)
class KnownAnswers:
    """What a run's checkpoint knows: samples asked about, by round and in the order asked.

    `sample_ids`, `content_hashes` (m,); `rounds` (m,) from 1; `labels` (m,): class indices, SKIP or IGNORE.
    `labels_paid`: how many of them the run bought itself.
    """

    experiment: str
    sample_ids: Sequence[str]
    content_hashes: Sequence[str]
    rounds: Int32Array
    labels: Int32Array
    labels_paid: int


@dataclass(frozen=True)
class LedgerRepair:
    """What a ledger lacked of a run's answers: `restored` of them are in it again, `paid` as bought by the run.

    `differing`: samples of which the ledger says otherwise than the checkpoint, and no correction tells why.
    """

    ledger: str
    restored: int
    paid: int
    differing: tuple[str, ...] = ()


def restore(connection: Connection, order: Order, known: KnownAnswers) -> LedgerRepair:
    """Put back the answers that the ledger lacks; `order` names the experiment, its classes and its annotator."""
    now = now_of(connection)
    enroll(connection, order, now)
    told = {
        row.sample_id: row.label
        for row in connection.execute(
            sa.select(uses.c.sample_id, uses.c.label).where(
                uses.c.experiment == order.experiment, uses.c.label.is_not(None)
            )
        )
    }
    rounds, given = known.rounds.tolist(), known.labels.tolist()
    answers = list(zip(known.sample_ids, known.content_hashes, rounds, given, strict=True))
    corrected = set(connection.execute(sa.select(corrections.c.content_hash)).scalars())
    changed = [(name, content) for name, content, _, label in answers if told.get(name, label) != label]
    differing = [name for name, content in changed if content not in corrected]
    lost = [answer for answer in answers if answer[0] not in told]
    if not lost:
        return LedgerRepair(order.ledger, 0, 0, tuple(differing))
    _requests(connection, order, answers, now)
    paid = _labels(connection, order, lost, known.labels_paid, now)
    held = {}
    for part in chunks([content for _, content, _, _ in lost]):
        held.update({row.content_hash: row.label for row in rows_of(connection, order, part)})
    statement = insert_of(connection, uses)
    statement = statement.on_conflict_do_update(
        index_elements=[uses.c.experiment, uses.c.sample_id],
        set_={name: statement.excluded[name] for name in ("label", "cost", "request_id", "round", "content_hash")},
    )
    connection.execute(
        statement,
        [
            {
                "experiment": order.experiment,
                "sample_id": name,
                "content_hash": content,
                "round": number,
                "request_id": request_id(order.experiment, number),
                "ordinal": ordinal,
                "label": held[content],
                "cost": price(order, held[content]),
            }
            for ordinal, (name, content, number, _) in enumerate(lost)
        ],
    )
    return LedgerRepair(order.ledger, len(lost), paid, tuple(differing))


def _requests(connection: Connection, order: Order, answers: list[tuple[str, str, int, int]], now: float) -> None:
    """The rounds' requests, answered: repeated, they give the same again."""
    for number in sorted({number for _, _, number, _ in answers}):
        mine = [(name, content) for name, content, at, _ in answers if at == number]
        names, hashes = tuple(name for name, _ in mine), tuple(content for _, content in mine)
        row = {
            "request_id": request_id(order.experiment, number),
            "experiment": order.experiment,
            "round": number,
            "digest": replace(order, sample_ids=names, content_hashes=hashes).digest,
            "created_at": now,
            "completed_at": now,
        }
        connection.execute(insert_of(connection, requests).values(**row).on_conflict_do_nothing())


def _labels(
    connection: Connection, order: Order, lost: list[tuple[str, str, int, int]], labels_paid: int, now: float
) -> int:
    """The labels that are gone, as many of them bought by the run as it paid for; returns how many that are."""
    held = set()
    for part in chunks([content for _, content, _, _ in lost]):
        found = rows_of(connection, order, part, lock=True)
        held |= {row.content_hash for row in found if row.label is not None}
    owed = labels_paid - count_paid(connection, order.experiment, None)[0]
    paid = 0
    for _, content, number, label in lost:
        if content in held:
            continue
        held.add(content)
        mine = label == SKIP or paid < owed
        paid += int(mine and label != SKIP)
        values = {
            **label_row(order, content),
            "label": label,
            "lease_until": None,
            "cost": price(order, label) if mine else 0.0,
            "paid_at": now,
            "paid_by": order.experiment if mine else f"restored for {order.experiment}",
            "request_id": request_id(order.experiment, number) if mine else "import/restored",
        }
        connection.execute(fill_of(connection, labels).values(**values))
    return paid
